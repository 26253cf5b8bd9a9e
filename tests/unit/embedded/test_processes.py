from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from freshdb_service.embedded import ServerNotStarted
from freshdb_service.embedded.processes import BoundedLog, exclusive, read_password, write_private


def test_log_stays_bounded_while_its_writer_continues(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "server.log", limit_bytes=1000)
    with log.writer() as output:
        for number in range(500):
            os.write(output, f"line {number}\n".encode())
            log.trim()
        os.write(output, b"the last line\n")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * 1000
    assert log.tail().endswith("the last line")
    assert b"\0" not in log.path.read_bytes(), "the writer goes on at the beginning, not where it was"


def test_log_is_trimmed_until_unwatch(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "server.log", limit_bytes=10, interval_seconds=0.001)
    log.watch()
    with log.writer() as output:
        os.write(output, b"more than ten bytes\n")
        while log.size():
            pass
        log.unwatch()
        os.write(output, b"more than ten bytes\n")
    assert log.size() == 20


def test_tail_is_the_text_since_the_start(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "server.log")
    assert log.tail() == ""
    log.path.write_text("before\n")
    start = log.size()
    with log.writer() as output:
        os.write(output, b"after\n")
    assert log.tail(start) == "after"
    assert log.tail(limit=3) == "er"


def test_password_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    made = read_password(tmp_path / "password")
    assert len(made) >= 32
    assert read_password(tmp_path / "password") == made
    assert read_password(tmp_path / "another") != made
    assert stat.S_IMODE((tmp_path / "password").stat().st_mode) == 0o600


def test_private_file_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a longer text than the new one")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_lock_timeout_names_the_remedy(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path, timeout_seconds=1),
        pytest.raises(ServerNotStarted, match=r"another process has been starting or stopping.*wait for it"),
        exclusive(tmp_path, timeout_seconds=0.02),
    ):
        pytest.fail("two were alone")
    with exclusive(tmp_path, timeout_seconds=0.02):
        pass
