"""Output at a terminal (a real pty, with and without rich), and completion in shells."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from freshdb import Client, Template, errors
from freshdb.cli.hints import hint
from tests import screenshots
from tests.cli.conftest import Freshdb, unique
from tests.limits import LIMIT_SECONDS
from tests.pools import shrink
from tests.servers import ALL_MAJORS_REQUIRED

WITHOUT_RICH = (
    "import sys; sys.modules['rich'] = None; import importlib.util as u; found = u.find_spec;"
    " u.find_spec = lambda name, *a: None if name == 'rich' else found(name, *a);"
    " import freshdb.cli; sys.exit(freshdb.cli.main(sys.argv[1:]))"
)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\r\x07]")


class Terminal:
    """A program at a terminal of 160 columns."""

    def __init__(self, words: list[str], environment: Mapping[str, str], directory: Path, lines: int) -> None:
        self.raw = ""
        self._read_to = 0  # end of the part of `text` that `until` has consumed
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 160, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.process = subprocess.Popen(
            words,
            cwd=directory,
            env={**environment, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": str(lines)},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )

    @property
    def text(self) -> str:
        """The output without colours and cursor movements."""
        return _CONTROL.sub("", self.raw)

    def until(self, *words: str | re.Pattern[str], seconds: float = LIMIT_SECONDS) -> str:
        """Read until all of these words and patterns have appeared after the match of the last call."""
        end = time.monotonic() + seconds
        patterns = [re.compile(re.escape(word)) if isinstance(word, str) else word for word in words]
        while True:
            text = self.text
            ends = [one.end() for one in (one.search(text, self._read_to) for one in patterns) if one]
            if len(ends) == len(patterns):
                begun, self._read_to = self._read_to, max(ends)
                return text[begun:]
            assert time.monotonic() < end, (words, text[-3000:])
            self._read()

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def ended(self, seconds: float = LIMIT_SECONDS) -> int:
        """Read until the program has ended, and return its exit code."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, self.text[-3000:]
            self._read()
        self._read()
        return self.process.returncode

    def settings(self) -> list[object]:
        return list(termios.tcgetattr(self._theirs))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def _read(self) -> None:
        ready, _, _ = select.select([self._ours], [], [], 0.05)
        if ready:
            self.raw += os.read(self._ours, 65536).decode(errors="replace")


@contextmanager
def terminal(command: Freshdb, *words: str, rich: bool = True, lines: int = 40) -> Iterator[Terminal]:
    program = command.words(*words) if rich else [sys.executable, "-c", WITHOUT_RICH, *words]
    opened = Terminal(program, command.full_environment(), command.directory, lines)
    try:
        yield opened
    finally:
        opened.close()


def test_watch_shows_health_pools_and_new_leases(
    freshdb_command: Freshdb, shop: Template, client: Client
) -> None:
    with terminal(freshdb_command, "status", "--watch", "0.2") as seen:
        seen.until(client.url, "ok", shop.name, "q quits")
        lease = client.acquire(shop.name, holder={"name": "a tester"})
        seen.until(lease.id, "active", "a tester", "█", "■")
        [pool] = [one for one in client.pools() if one.id == lease.pool_id]
        client.resize(pool.id, min_ready=1, max_size=6)
        seen.until(lease.id, "██", "q quits")
        seen.until(lease.id, "q quits")
        screenshots.save_terminal(seen.raw, "watch")
        client.release(lease.id)
        client.resize(pool.id, min_ready=pool.min_ready, max_size=pool.max_size)
        before = seen.before
        seen.press("q")
        assert seen.ended() == 0
        assert seen.settings() == before
        assert seen.raw.rstrip().endswith("\x1b[?25h") or "\x1b[?1049l" in seen.raw  # the screen is restored


def test_ctrl_c_ends_watch_with_success(freshdb_command: Freshdb, shop: Template) -> None:
    with terminal(freshdb_command, "status", "--watch") as seen:
        seen.until(shop.name)
        seen.process.send_signal(2)
        assert seen.ended() == 0
        assert "Traceback" not in seen.text


def test_watch_continues_while_the_service_is_unreachable(tmp_path: Path) -> None:
    command = Freshdb(tmp_path, {"FRESHDB_URL": "http://127.0.0.1:1"})
    with terminal(command, "status", "--watch", "0.2") as seen:
        whole = re.compile("unreachable.*q quits", re.DOTALL)
        seen.until(whole)
        seen.until(whole)
        seen.press("q")
        assert seen.ended() == 0


def test_watch_without_rich_is_plain_text(freshdb_command: Freshdb, shop: Template, client: Client) -> None:
    client.release(client.acquire(shop.name).id)
    with terminal(freshdb_command, "status", "--watch", "0.2", rich=False) as seen:
        seen.until(client.url, "ok", shop.name, "max_size=")
        seen.press("q")
        assert seen.ended() == 0
        assert "█" not in seen.text


def test_watch_as_json_is_one_object_per_line_without_secrets(
    freshdb_command: Freshdb, shop: Template, client: Client
) -> None:
    lease = client.acquire(shop.name)
    process = freshdb_command.start("status", "--watch", "0.1", "--json")
    assert process.stdout is not None
    frames = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(2)
    process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0
    assert all(one["status"] == "ok" and one["pools"] for one in frames)
    assert lease.id in [one["id"] for one in frames[-1]["leases"]]
    assert lease.password
    assert lease.password not in json.dumps(frames)
    client.release(lease.id)


def test_table_has_colours_at_a_terminal_only(
    freshdb_command: Freshdb, shop: Template, client: Client
) -> None:
    lease = client.acquire(shop.name)
    with terminal(freshdb_command, "leases") as seen:
        assert seen.ended() == 0
        assert lease.id in seen.text
        assert "\x1b[34mactive" in seen.raw
    assert "\x1b" not in freshdb_command("leases").stdout
    with terminal(freshdb_command, "leases", rich=False) as plain:
        assert plain.ended() == 0
        assert lease.id in plain.text
        assert "\x1b" not in plain.raw
    client.release(lease.id)


def test_wait_shows_its_duration_at_a_terminal(freshdb_command: Freshdb, client: Client) -> None:
    template = client.ensure_sql(unique("full"), ["create table item (id int)"])
    first = client.acquire(template.name)
    shrink(client, first.pool_id)
    with terminal(freshdb_command, "acquire", template.name, "--wait", f"{LIMIT_SECONDS:.0f}") as seen:
        seen.until("waiting for a database of", re.compile(r"\d:\d\d:\d\d"))
        client.release(first.id)
        seen.until("postgresql://")
        assert seen.ended() == 0


@pytest.mark.parametrize("words", [("--version",), ("leases", "--help")])
def test_start_loads_neither_rich_nor_argcomplete_nor_opentelemetry(words: tuple[str, ...]) -> None:
    script = (
        "import sys, freshdb.cli\ntry: freshdb.cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print([one for one in ('rich', 'argcomplete', 'opentelemetry', 'httpx') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def completed(command: Freshdb, line: str) -> list[str]:
    """Return the completions of argcomplete for this line."""
    answers = command.directory / "completed"
    subprocess.run(
        command.words(),
        cwd=command.directory,
        env={
            **command.full_environment(),
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answers),
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        },
        stdout=subprocess.DEVNULL,
        timeout=LIMIT_SECONDS,
        check=True,
    )
    return [one.strip() for one in answers.read_text().split("\n")]


def assert_completed(command: Freshdb, line: str, requested: str) -> None:
    """Retry, because on a busy machine the service may not answer within the second that it has."""
    until = time.monotonic() + LIMIT_SECONDS
    while requested not in (given := completed(command, line)):
        assert time.monotonic() < until, given


def test_commands_options_templates_and_leases_are_completed(
    freshdb_command: Freshdb, shop: Template, client: Client
) -> None:
    assert {"status", "acquire", "template", "completion"} <= set(completed(freshdb_command, "freshdb "))
    assert "--watch" in completed(freshdb_command, "freshdb status --w")
    assert_completed(freshdb_command, f"freshdb acquire {shop.name[:6]}", shop.name)
    lease = client.acquire(shop.name)
    assert_completed(freshdb_command, f"freshdb release {lease.id[:8]}", lease.id)
    client.release(lease.id)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_accepts_its_completion_code(freshdb_command: Freshdb, shell: str) -> None:
    code = freshdb_command("completion", shell)
    assert code.returncode == 0
    assert json.loads(freshdb_command("completion", shell, "--json").stdout)["shell"] == shell
    _needed(shell)
    done = subprocess.run([shell, "-n"], input=code.stdout, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_works_at_the_shells_prompt(freshdb_command: Freshdb, tmp_path: Path, shell: str) -> None:
    _needed(shell)
    code = freshdb_command("completion", shell).stdout
    (tmp_path / "rc").write_text(f"PS1='> '\n{code}")
    (tmp_path / ".zshrc").write_text(f"autoload -Uz compinit; compinit -u\nPS1='> '\n{code}")
    environment = {**_with_ours(freshdb_command), "ZDOTDIR": str(tmp_path)}
    begun = {"bash": ["--noprofile", "--rcfile", str(tmp_path / "rc")], "zsh": ["--no-globalrcs"]}
    typed = Terminal([shell, *begun[shell], "-i"], environment, tmp_path, 40)
    try:
        typed.until("> ")
        typed.press("freshdb complet\t")
        typed.until("freshdb completion ")
        typed.press("\x15exit\n")  # after deleting the typed text
        typed.ended()
    finally:
        typed.close()


def test_completion_works_in_fish(freshdb_command: Freshdb, tmp_path: Path) -> None:
    _needed("fish")
    (tmp_path / "code.fish").write_text(freshdb_command("completion", "fish").stdout)
    asked = f"source {tmp_path / 'code.fish'}; complete --do-complete 'freshdb complet'"
    done = subprocess.run(
        ["fish", "--no-config", "--command", asked],
        env={**_with_ours(freshdb_command), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.stdout.split()[0] == "completion"


def _needed(shell: str) -> None:
    if shutil.which(shell) is None:
        if shell == "bash" and ALL_MAJORS_REQUIRED:
            pytest.fail("there is no bash")
        pytest.skip(f"{shell} is not installed: its code is not run")


def _with_ours(command: Freshdb) -> dict[str, str]:
    return {**command.full_environment(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_error_with_json_is_json_and_has_the_next_step(freshdb_command: Freshdb) -> None:
    done = freshdb_command("acquire", unique("none"), "--json")
    assert (done.returncode, done.stdout) == (1, "")
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "template_not_found"
    assert "freshdb template build" in error["next_step"]


def kinds(of: type[errors.FreshdbError]) -> Iterator[type[errors.FreshdbError]]:
    for one in of.__subclasses__():
        yield one
        yield from kinds(one)


@pytest.mark.parametrize("kind", list(kinds(errors.FreshdbError)), ids=lambda one: one.__name__)
def test_every_error_names_the_next_step(kind: type[errors.FreshdbError]) -> None:
    if kind is not errors.ServiceError:  # a code that this version does not know
        assert hint(kind.__new__(kind))
