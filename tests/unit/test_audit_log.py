"""The buffer of the audit log waits for the control plane, and has a maximum size."""

from __future__ import annotations

import logging
from uuid import uuid4

import pytest

from freshdb_service.auth.audit_log import MOST, AuditLog
from freshdb_service.errors import BackendUnavailable
from freshdb_service.store.audit_log import Actor
from freshdb_service.store.connection import Store


def away() -> Store:
    """A control plane that does not answer."""
    return Store("postgresql://nobody@127.0.0.1:9/nothing")


async def test_unwritten_actions_stay_in_the_buffer_and_are_counted() -> None:
    audit_log, lease, runner = AuditLog(away()), uuid4(), Actor("ci", "192.0.2.1")
    for _ in range(3):
        audit_log.collect("lease.renewed", runner, subject=lease)
        with pytest.raises(BackendUnavailable):
            await audit_log.flush()
    audit_log.collect("lease.renewed", runner, subject=uuid4())
    assert sorted(tally.count for tally in audit_log._collected.values()) == [1, 3]


async def test_unknown_callers_cannot_fill_the_buffer(caplog: pytest.LogCaptureFixture) -> None:
    audit_log, known = AuditLog(away()), Actor("ci", "192.0.2.1")
    for number in range(MOST):
        audit_log.collect("access.unauthorized", Actor(None, str(number)))
    for _ in range(MOST):
        audit_log.collect("lease.renewed", known, subject=uuid4())
    assert len(audit_log._collected) == MOST
    assert sum(key[1] == "ci" for key in audit_log._collected) == MOST // 2
    audit_log._collected.clear()
    with caplog.at_level(logging.WARNING):
        await audit_log.flush()
    assert [record.getMessage().split()[0] for record in caplog.records] == [str(MOST)]
