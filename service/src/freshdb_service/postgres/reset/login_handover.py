"""The hand-over of a used database from the login of one generation to that of the next.

The transaction that cleans the database begins with it. The old name of the login proves that no other worker has the
database by now, and the row of the role stays locked until the end. A worker that was paused finds no such login any more,
and has changed nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from freshdb_reset import Cause, CleanState, Plan, Unprovable, restore_rows
from freshdb_service.postgres.names import literal, quoted
from freshdb_service.postgres.server.session_cache import Session


@dataclass(frozen=True, slots=True)
class LoginHandover:
    """The old and the new name of a login, and the verifier of its new password."""

    old: str
    new: str
    verifier: str

    def statements(self, *, at_once: bool) -> list[str]:
        """Compose the statements that begin the transaction. They fail if the login has another name by now."""
        if at_once:
            # ``ALTER ROLE … PASSWORD`` would hash the empty password to compare it with the new one, which takes 3 ms.
            # And this is one change of the row instead of two: every backend of the server is notified of each.
            row = (
                f"WITH handed AS (UPDATE pg_authid SET rolname = {literal(self.new)}, rolcanlogin = true, "
                f"rolpassword = {literal(self.verifier)} WHERE rolname = {literal(self.old)} RETURNING 1) "
                "SELECT 1 / count(*) FROM handed"
            )
            return [row]
        return [
            f"ALTER ROLE {quoted(self.old)} RENAME TO {quoted(self.new)}",
            "SELECT pg_stat_force_next_flush()",
        ]


async def restore_and_hand_over(
    session: Session, plan: Plan, expected: CleanState, handover: LoginHandover, *, at_once: bool
) -> None:
    """Restore rows and sequences, and hand the database over to the next login, in one transaction.

    ``at_once`` also opens the login, which takes a superuser. Otherwise the login only has its new name afterwards, and
    waits for ``open_login``. By then, the writes of this session have been counted.

    Raises:
        Unprovable: the login does not exist, so another worker has the database by now. Nothing was changed.
    """
    try:
        await restore_rows(session, plan, expected, handover.statements(at_once=at_once))
    except (asyncpg.DivisionByZeroError, asyncpg.UndefinedObjectError) as error:
        raise Unprovable("its login does not exist any more", cause=Cause.LOGIN) from error


async def open_login(session: Session, handover: LoginHandover) -> None:
    """Let the new login in, as a role that is no superuser."""
    await session.execute(f"ALTER ROLE {quoted(handover.new)} LOGIN PASSWORD {literal(handover.verifier)}")


async def undo(session: Session, handover: LoginHandover) -> None:
    """Give the login its old name again and close it, so that the database can be rebuilt for its next login."""
    old, new = quoted(handover.old), quoted(handover.new)
    await session.execute(f"ALTER ROLE {new} RENAME TO {old}; ALTER ROLE {old} NOLOGIN")
