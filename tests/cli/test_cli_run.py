"""``freshdb run``: environment, exit codes, signals, and a lost lease."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from freshdb import Client, LeaseNotFound, Template
from tests.cli.conftest import COUNT_ITEMS, PRINT_ENVIRONMENT, Freshdb, unique
from tests.limits import LIMIT_SECONDS

GUARDED = (
    "import os, psycopg\n"
    "from freshdb.toolkit.guard import Guard, NotALease\n"
    "with Guard(allow=os.environ['FRESHDB_GUARD_ALLOW'].split()):\n"
    "    psycopg.connect(os.environ['DATABASE_URL']).close()\n"
    "    try:\n"
    "        psycopg.connect(dbname='postgres')\n"
    "    except NotALease:\n"
    "        print('refused')\n"
)
READY = "import os, sys, time; print(os.environ['FRESHDB_LEASE_ID'], flush=True); "
WAIT = READY + f"time.sleep({2 * LIMIT_SECONDS})"
WAIT_FOR_FILE = READY + "\nwhile not os.path.exists('go-on'): time.sleep(0.01)"
BEAT_OFTEN = (
    "import sys, freshdb.cli, freshdb.heartbeat as h;"
    f" h.PART = 0.05 / {LIMIT_SECONDS}; sys.exit(freshdb.cli.main(sys.argv[1:]))"
)
COUNT_SIGNALS = (
    "import os, signal, sys, time\n"
    "got = []\n"
    "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
    "    signal.signal(number, lambda number, _: got.append(number))\n"
    "print(os.environ['FRESHDB_LEASE_ID'], flush=True)\n"
    f"until = time.monotonic() + {LIMIT_SECONDS}\n"
    "while not got and time.monotonic() < until:\n"
    "    time.sleep(0.01)\n"
    "time.sleep(0.5)\n"  # enough time for a second signal to arrive
    "print('got', *got, flush=True)\n"
)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of a test, which are killed at its end."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _lease_id(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _run(template: Template, code: str) -> list[str]:
    return ["run", "--template", template.name, "--", sys.executable, "-c", code]


def test_command_gets_a_clean_database_in_its_environment(
    freshdb_command: Freshdb, shop: Template, client: Client
) -> None:
    done = freshdb_command(*_run(shop, PRINT_ENVIRONMENT))
    assert done.returncode == 0, done.stderr
    environment = json.loads(done.stdout)
    lease = client.get_lease(environment["FRESHDB_LEASE_ID"])
    assert (environment["PGDATABASE"], environment["PGUSER"]) == (lease.database, lease.user)
    assert environment["DATABASE_URL"].endswith(f":{environment['PGPORT']}/{lease.database}")
    assert environment["PGPASSWORD"] in environment["DATABASE_URL"]
    assert lease.state == "released"
    assert lease.holder["name"].startswith("freshdb run python")


def test_command_can_query_its_database(freshdb_command: Freshdb, shop: Template) -> None:
    for isolation in ("database", "schema"):
        done = freshdb_command(
            "run", "--template", shop.name, "--isolation", isolation, "--", sys.executable, "-c", COUNT_ITEMS
        )
        assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_guard_in_the_command_allows_only_its_database(freshdb_command: Freshdb, shop: Template) -> None:
    done = freshdb_command(*_run(shop, GUARDED))
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


def test_exit_code_of_the_command_is_returned(freshdb_command: Freshdb, shop: Template) -> None:
    assert freshdb_command(*_run(shop, "raise SystemExit(42)")).returncode == 42


def test_command_killed_by_a_signal_returns_128_plus_its_number(
    freshdb_command: Freshdb, shop: Template
) -> None:
    done = freshdb_command(*_run(shop, "import os; os.kill(os.getpid(), 9)"))
    assert done.returncode == 128 + 9


def test_missing_command_returns_127_and_releases_the_lease(
    freshdb_command: Freshdb, shop: Template, client: Client
) -> None:
    mark = unique("mark")
    done = freshdb_command(
        "run", "--template", shop.name, "--holder", f"mark={mark}", "--", "no-such-command"
    )
    assert done.returncode == 127
    assert "no-such-command: command not found" in done.stderr
    assert client.leases(holder={"mark": mark}) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_is_passed_on_once(
    number: signal.Signals,
    freshdb_command: Freshdb,
    shop: Template,
    client: Client,
    started: list[subprocess.Popen[str]],
) -> None:
    process = freshdb_command.start(*_run(shop, COUNT_SIGNALS))
    started.append(process)
    lease = _lease_id(process)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert out.strip() == f"got {number.value}", err
    assert process.returncode == 0
    assert client.get_lease(lease).state == "released"


def test_command_killed_by_a_passed_on_signal_returns_its_number(
    freshdb_command: Freshdb, shop: Template, client: Client, started: list[subprocess.Popen[str]]
) -> None:
    process = freshdb_command.start(*_run(shop, WAIT))
    started.append(process)
    lease = _lease_id(process)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM
    assert client.get_lease(lease).state == "released"


def test_lost_lease_ends_the_command_with_75(
    freshdb_command: Freshdb, shop: Template, client: Client, started: list[subprocess.Popen[str]]
) -> None:
    words = ["run", "--template", shop.name, "--ttl", f"{LIMIT_SECONDS}", "--", sys.executable, "-c", WAIT]
    process = replace(freshdb_command, program=("-c", BEAT_OFTEN)).start(*words)
    started.append(process)
    client.revoke(_lease_id(process))
    _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 75
    assert "revoked" in err
    assert "ending" in err


def test_successful_command_fails_if_its_lease_was_lost(
    freshdb_command: Freshdb, shop: Template, client: Client, started: list[subprocess.Popen[str]]
) -> None:
    process = freshdb_command.start(*_run(shop, WAIT_FOR_FILE))
    started.append(process)
    client.revoke(_lease_id(process))
    (freshdb_command.directory / "go-on").touch()
    _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 75
    assert "revoked" in err


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # since 3.12, if threads are running
def test_ctrl_c_in_a_terminal_reaches_the_command_once(
    freshdb_command: Freshdb, shop: Template, client: Client
) -> None:
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover - another process
        os.chdir(freshdb_command.directory)
        os.execve(  # noqa: S606 - no shell is the point
            sys.executable,
            freshdb_command.words(*_run(shop, COUNT_SIGNALS)),
            freshdb_command.full_environment(),
        )
    shown = _read_until(terminal, b"\n")
    os.write(terminal, b"\x03")
    shown += _read_until(terminal, b"got 2")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)
    assert b"got 2 2" not in shown
    assert client.get_lease(shown.split()[0].decode()).state == "released"


def _read_until(terminal: int, wanted: bytes) -> bytes:
    shown = b""
    until = time.monotonic() + LIMIT_SECONDS
    while wanted not in shown:
        assert time.monotonic() < until, shown
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 1000)
    return shown


def test_unknown_template_names_the_next_step(freshdb_command: Freshdb) -> None:
    done = freshdb_command("run", "--template", "no-such-template", "--", "true")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no template 'no-such-template'")
    assert "freshdb template build" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run"], "freshdb run -- pytest"),
        (["run", "--", "true"], "[tool.freshdb] template"),
        (["run", "--ttl", "soon", "--", "true"], "is not a number of seconds"),
        (["run", "--wait", "-1", "--", "true"], "is not a number of seconds"),
        (["run", "--holder", "me", "--", "true"], "KEY=VALUE"),
        (["leases", "--", "true"], "nothing after --"),
        (["template", "build", "x", "--", "true"], "--inputs"),
        (["template", "build", "x", "--inputs", "nothing/**", "--", "true"], "matches no file"),
        (["template", "build", "x", "--fingerprint", "f"], "after --"),
        (["template", "sql", "x", "nothing.sql"], "nothing.sql"),
        (
            ["template", "sql", "x", "y", "--extension", "a,b"],
            "is not NAME[,schema=SCHEMA][,version=VERSION]",
        ),
        (["fly"], "invalid choice"),
        ([], "COMMAND"),
        (["--url", "x"], "COMMAND"),
    ],
    ids=" ".join,
)
def test_wrong_command_line_exits_with_2_and_the_reason(
    freshdb_command: Freshdb, words: list[str], says: str
) -> None:
    done = freshdb_command(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_psql_opens_a_clean_database_or_the_database_of_a_lease(
    freshdb_command: Freshdb, shop: Template, client: Client
) -> None:
    done = freshdb_command("psql", shop.name, "--", "-Atc", "select name from item")
    assert (done.returncode, done.stdout) == (0, "one\n"), done.stderr
    lease = client.acquire(shop.name)
    done = freshdb_command("psql", "--lease", lease.id, "--", "-Atc", "select current_database()")
    assert (done.returncode, done.stdout.strip()) == (0, lease.database), done.stderr
    assert client.release(lease.id).state == "released"


def test_psql_on_an_ended_lease_fails(freshdb_command: Freshdb, shop: Template, client: Client) -> None:
    lease = client.acquire(shop.name)
    client.release(lease.id)
    done = freshdb_command("psql", "--lease", lease.id)
    assert done.returncode == 1
    assert lease.id in done.stderr
    with pytest.raises(LeaseNotFound):
        client.get_lease("no-such-lease")
