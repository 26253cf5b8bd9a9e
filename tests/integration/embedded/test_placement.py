from __future__ import annotations

import os
from pathlib import Path

import pytest

from freshdb_service.embedded import BinaryNotFound, DataDirectoryUnusable, default_data_directory, placement
from freshdb_service.embedded.binaries import postgres_bundle, redis_bundle
from freshdb_service.embedded.placement import Account

STRANGER = Account("stranger", uid=54_321, gid=54_321)


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "allowed"),
    [
        (0o701, 54_321, 54_321, True),
        (0o710, 54_321, None, True),
        (0o710, 54_321, 54_321, False),
        (0o100, None, 54_321, True),
        (0o011, None, None, False),
        (0o700, 54_321, 54_321, False),
    ],
)
def test_traversal_is_decided_like_the_kernel_does(
    directory: Path, mode: int, uid: int | None, gid: int | None, *, allowed: bool
) -> None:
    """``None`` is the owner's account."""
    (directory / "below").mkdir()
    directory.chmod(mode)
    account = Account(
        "some",
        directory.stat().st_uid if uid is None else uid,
        directory.stat().st_gid if gid is None else gid,
    )
    assert placement.traversable(directory, account) is allowed
    assert placement.traversable(directory / "below", account) is allowed
    directory.chmod(0o711)


def test_reachable_program_is_run_in_place(directory: Path, shelter: Path) -> None:
    program = made(directory / "redis-server", "1")
    assert placement.runnable(program, STRANGER, bundle=redis_bundle) == program
    assert not shelter.exists()


def test_unreachable_program_is_copied_once_per_version(closed: Path, shelter: Path) -> None:
    first = placement.runnable(made(closed / "redis-server", "1"), STRANGER, bundle=redis_bundle)
    (closed / "another").mkdir()
    same = placement.runnable(made(closed / "another" / "redis-server", "1"), STRANGER, bundle=redis_bundle)
    other = placement.runnable(made(closed / "redis-server", "2"), STRANGER, bundle=redis_bundle)
    assert first == same != other
    assert (first.read_text(), other.read_text()) == ("1", "2")
    for copy in (first, other):
        assert copy.is_relative_to(shelter)
        assert placement.traversable(copy.parent, STRANGER)
        assert copy.stat().st_mode & 0o005 == 0o005


def test_copy_of_a_linked_program_keeps_the_name_of_the_link(closed: Path, shelter: Path) -> None:
    made(closed / "busybox", "1")
    copies = []
    for name in ("redis-server", "valkey-server"):
        (closed / name).symlink_to("busybox")
        copies.append(placement.runnable(closed / name, STRANGER, bundle=redis_bundle))
    assert [copy.name for copy in copies] == ["redis-server", "valkey-server"]
    assert {copy.read_text() for copy in copies} == {"1"}
    assert all(copy.resolve().is_relative_to(shelter) for copy in copies)


def test_copy_that_was_damaged_is_created_again(closed: Path, shelter: Path) -> None:
    assert not shelter.exists()
    program = made(closed / "redis-server", "1")
    copy = placement.runnable(program, STRANGER, bundle=redis_bundle)
    copy.unlink()
    assert placement.runnable(program, STRANGER, bundle=redis_bundle) == copy
    assert copy.read_text() == "1"


def test_link_beside_its_file_is_copied_with_the_directory(closed: Path, shelter: Path) -> None:
    for name in ("bin", "lib", "share"):
        (closed / "pg" / name).mkdir(parents=True)
    made(closed / "pg" / "bin" / "postgres-18", "1")
    (closed / "pg" / "bin" / "postgres").symlink_to("postgres-18")
    copy = placement.runnable(closed / "pg" / "bin" / "postgres", STRANGER, bundle=postgres_bundle)
    assert copy.is_relative_to(shelter)
    assert copy.read_text() == "1"


def test_program_behind_an_unreachable_directory_or_link_is_copied(
    directory: Path, closed: Path, shelter: Path
) -> None:
    made(directory / "redis", "1")
    (closed / "step").symlink_to(directory / "redis")
    (directory / "redis-server").symlink_to(closed / "step")
    (directory / "bin").symlink_to(closed)
    (closed / "redis-server").symlink_to(directory / "redis")
    (directory / "open").mkdir(mode=0o755)
    (directory / "open" / "redis-server").symlink_to("../redis")
    (closed / "way").symlink_to(directory / "open")
    (directory / "roundabout").symlink_to("closed/way")
    assert placement.runnable(directory / "open" / "redis-server", STRANGER, bundle=redis_bundle).parent == (
        directory / "open"
    )
    for program in (
        directory / "redis-server",
        directory / "bin" / "redis-server",
        directory / "roundabout" / "redis-server",
    ):
        copy = placement.runnable(program, STRANGER, bundle=redis_bundle)
        assert copy.is_relative_to(shelter)
        assert copy.name == "redis-server"


def test_error_names_a_program_that_cannot_be_reached_or_copied(closed: Path, shelter: Path) -> None:
    shelter.write_text("in the way")
    program = made(closed / "redis-server", "1")
    with pytest.raises(BinaryNotFound, match=rf"the user stranger cannot run {program}, .*{shelter} failed"):
        placement.runnable(program, STRANGER, bundle=redis_bundle)


def test_data_directory_is_not_relocated_if_the_account_can_reach_it(directory: Path, shelter: Path) -> None:
    assert placement.prepare_directory(directory / "data", STRANGER) == directory / "data"
    assert placement.server_directory(directory / "data", STRANGER) == directory / "data"
    assert not shelter.exists()


def test_relocated_data_is_removed_when_the_original_is_gone(closed: Path, shelter: Path) -> None:
    kept = placement.prepare_directory(closed / "kept", STRANGER)
    gone, used = (
        placement.prepare_directory(closed / "gone", STRANGER),
        placement.prepare_directory(closed / "used", STRANGER),
    )
    assert placement.server_directory(closed / "kept", STRANGER) == kept
    assert len({kept, gone, used}) == 3
    assert all(
        one.is_relative_to(shelter) and placement.traversable(one, STRANGER) for one in (kept, gone, used)
    )
    (closed / "gone").rmdir()
    (closed / "used").rmdir()
    placement.remove_abandoned(lambda home: home == used)
    assert [one.exists() for one in (kept, gone, used)] == [True, False, True]


def test_error_names_a_directory_that_cannot_be_created(directory: Path) -> None:
    (directory / "file").write_text("")
    for account in (None, STRANGER):
        with pytest.raises(DataDirectoryUnusable, match=f"{directory}/file/data"):
            placement.prepare_directory(directory / "file" / "data", account)


def test_default_data_directory_is_the_users_or_roots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_data_directory().is_relative_to(tmp_path)
    assert default_data_directory().name == "freshdb"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_directory() == Path("/var/lib/freshdb")


def made(program: Path, text: str) -> Path:
    program.write_text(text)
    program.chmod(0o700 if "closed" in program.parts else 0o755)
    return program
