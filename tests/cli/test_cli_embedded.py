"""The embedded service: started once in the background, left running, and stopped on demand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import freshdb
from freshdb import (
    EmbeddedFailed,
    RunningService,
    default_data_directory,
    ensure_service,
    running_service,
    stop_service,
)
from freshdb_service.embedded import default_data_directory as default_of_the_service
from tests.cli.conftest import COUNT_ITEMS, SCHEMA, Freshdb
from tests.limits import LIMIT_SECONDS
from tests.unit.client.scripted import Asked, Reply, scripted_service

ENSURE = "import freshdb, sys; print(freshdb.ensure_service(progress=lambda t: print(t, file=sys.stderr)))"


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="freshdb-embedded-"))
    yield directory
    stop_service(directory)
    shutil.rmtree(directory)


@pytest.fixture
def command(data: Path, tmp_path: Path) -> Freshdb:
    return Freshdb(tmp_path, {"FRESHDB_DATA": str(data)})


def _service(data: Path) -> RunningService:
    found = running_service(data)
    assert found is not None
    return found


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_of_several_processes_one_starts_the_service_and_all_use_it(data: Path, command: Freshdb) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", ENSURE],
            env=command.full_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    ended = [(*process.communicate(timeout=2 * LIMIT_SECONDS), process.returncode) for process in processes]
    assert {code for _, _, code in ended} == {0}, ended
    assert len({out for out, _, _ in ended}) == 1
    assert sum(err.count("starting the embedded freshdb service") for _, err, _ in ended) <= 1
    assert "Warning" not in "".join(err for _, err, _ in ended)
    assert (data / "service.log").read_text().count("listens on") == 1
    assert ended[0][0].strip() == _service(data).url


def test_running_service_is_used_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ensure_service(data)
    before = _service(data)
    monkeypatch.setattr("freshdb.embedded._PROBE_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr("freshdb.embedded._start", lambda *_: pytest.fail("one is started"))
    assert ensure_service(data) == first
    assert _service(data) == before


def test_commands_find_the_embedded_service(data: Path, command: Freshdb, tmp_path: Path) -> None:
    ensure_service(data)
    (tmp_path / "schema.sql").write_text(SCHEMA)
    (tmp_path / "pyproject.toml").write_text('[tool.freshdb]\ntemplate = "items"\nsql = ["schema.sql"]\n')
    done = command("run", "--", sys.executable, "-c", COUNT_ITEMS)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert json.loads(command("status", "--json").stdout)["url"] == _service(data).url


def test_service_is_detached_from_the_process_that_started_it(data: Path) -> None:
    ensure_service(data)
    pid = _service(data).pid
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")
    assert Path(f"/proc/{pid}/fd/1").readlink() == data / "service.log"


def test_killed_service_is_started_again(data: Path) -> None:
    ensure_service(data)
    killed = _service(data).pid
    os.kill(killed, signal.SIGKILL)
    until = time.monotonic() + LIMIT_SECONDS
    while not _is_gone(killed):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert running_service(data) is None
    ensure_service(data)
    assert _service(data).pid != killed


def test_stop_ends_the_service_and_reports_when_none_is_running(data: Path, command: Freshdb) -> None:
    ensure_service(data)
    pid = _service(data).pid
    done = command("stop")
    assert (done.returncode, done.stderr) == (0, f"stopped the service in {data}\n")
    assert running_service(data) is None
    assert not (data / "service.json").exists()
    until = time.monotonic() + LIMIT_SECONDS
    while not _is_gone(pid):
        assert time.monotonic() < until
        time.sleep(0.02)
    again = command("stop")
    assert (again.returncode, again.stderr) == (0, f"no service is running in {data}\n")
    status = command("status")
    assert status.returncode == 1
    assert f"none is running in {data}" in status.stderr


def test_service_that_cannot_start_reports_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHDB_MIN_READY", "-1")
    with pytest.raises(EmbeddedFailed, match="exit code 2") as caught:
        ensure_service(tmp_path / "data")
    assert "FRESHDB_MIN_READY" in caught.value.log_tail
    assert str(tmp_path / "data" / "service.log") in str(caught.value)


def test_unusable_data_directory_is_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedFailed, match="FRESHDB_DATA"):
        ensure_service(tmp_path / "file" / "data")


def test_missing_service_package_is_named(tmp_path: Path) -> None:
    source = Path(freshdb.__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(source)!r}); from freshdb import ensure_service; ensure_service()"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"FRESHDB_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ServiceNotInstalled" in done.stderr
    assert "pip install 'freshdb[service]'" in done.stderr


def test_service_of_another_version_with_leases_is_not_replaced(tmp_path: Path) -> None:
    def old(asked: Asked) -> Reply:
        if asked.path == "/livez":
            return Reply(200, {"status": "ok", "version": "0.0.9"})
        return Reply(200, {"items": [{"id": "held"}], "next": None})

    with scripted_service() as script:
        script.play(old)
        announced = {"url": script.url, "pid": os.getpid(), "version": "0.0.9", "token": None}
        (tmp_path / "service.json").write_text(json.dumps(announced))
        with pytest.raises(EmbeddedFailed, match=r"version 0\.0\.9, this is 0\.2\.0.*freshdb stop"):
            ensure_service(tmp_path)


def test_another_program_at_the_old_port_is_not_the_service(tmp_path: Path) -> None:
    with scripted_service() as script:
        script.play(Reply(200, {"status": "ok", "version": "9.9.9"}))
        announced = {"url": script.url, "pid": os.getpid(), "version": "0.2.0", "token": None}
        (tmp_path / "service.json").write_text(json.dumps(announced))
        assert running_service(tmp_path) is None
        assert stop_service(tmp_path) is False


@pytest.mark.parametrize("content", ["", "[]", '{"url": 1}', "{"])
def test_broken_service_file_is_ignored(content: str, tmp_path: Path) -> None:
    (tmp_path / "service.json").write_text(content)
    assert running_service(tmp_path) is None


def test_client_and_service_have_the_same_default_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FRESHDB_DATA", raising=False)
    for variable in ("", str(tmp_path)):
        monkeypatch.setenv("XDG_DATA_HOME", variable)
        for user in (0, 1000):
            monkeypatch.setattr(os, "geteuid", lambda user=user: user)
            assert default_data_directory() == default_of_the_service()
    monkeypatch.setenv("FRESHDB_DATA", "/elsewhere")
    assert default_data_directory() == Path("/elsewhere")


def test_serve_runs_the_command_of_the_service(tmp_path: Path) -> None:
    done = Freshdb(tmp_path)("serve", "--help")
    assert done.returncode == 0
    assert "--postgres" in done.stdout
