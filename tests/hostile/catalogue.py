"""All attacks, and the places where they run.

A *place* is a version, an isolation, and the role of the service there (superuser or plain role). A run makes each attack in
one of the places of its turn, ``make hygiene`` in every place.

``python -m tests.hostile`` prints the table of ``docs/security.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tests.hostile.attack import Attack, Outcome
from tests.hostile.leftovers import ACCEPTED, BLOCKING, TRAPS
from tests.hostile.refusals import FILES, OTHER_SERVERS, PLACES, REFUSED, ROLES, SERVER, SESSIONS
from tests.hygiene.catalogue import CATALOGUE, Place, places_of_turn
from tests.shares import current_turn, share

ATTACKS: Final[tuple[Attack, ...]] = (*REFUSED, *ACCEPTED)

GROUPS: Final[Mapping[str, tuple[Attack, ...]]] = {
    "Other databases": PLACES,
    "Files and programs": FILES,
    "Connections to other servers": OTHER_SERVERS,
    "Other roles": ROLES,
    "Other sessions": SESSIONS,
    "The server": SERVER,
    "Blocking the cleanup": BLOCKING,
    "Traps for the cleanup and for the next holder": TRAPS,
}

IN_HYGIENE_MATRIX: Final[Mapping[str, str]] = {
    "limit the connections of its own database": "the database's limit of connections",
    "close its own database to all connections": "the database closed to all connections",
    "drop its own database": "the database dropped by its holder",
    "make its own database a template": "the database made a template",
    "change or remove the database's comment, which has freshdb's stamp": "the comment on the database removed",
    "change its own password": "the login's password changed",
    "leave settings that break the next login": "a setting of the login that makes all transactions read-only",
    "drop the schema with everything in it": "the schema dropped with everything in it",
    "revoke its own right to connect": "the owner's own right to connect revoked",
    "leave default privileges": "a default privilege granted",
    "leave a publication": "a publication created",
    "leave a large object in another database": "a large object in another database",
    "leave sessions, open transactions, locks, listeners": "a connection to another database",
    "leave prepared transactions": "several prepared transactions",
}
"""Attacks that ``tests/hygiene`` makes as kinds of change, and their names there. Each is cleaned."""


def plan(majors: Sequence[int], turn: int | None = None) -> list[tuple[Place, Attack]]:
    """Return the attacks that a turn makes, place by place."""
    places, turn = places_of_turn(majors, current_turn() if turn is None else turn)
    chosen = [
        (place, attack)
        for attack in ATTACKS
        for place in share(
            [one for one in places if _possible(attack, one)],
            len(places),
            turn,
            name=f"{{}} {attack}".format,
        )
    ]
    return sorted(chosen, key=lambda case: places.index(case[0]))


def _possible(attack: Attack, place: Place) -> bool:
    return place.isolation in attack.isolations and not (place.plain and attack.superuser)


def table() -> str:
    """Return the table for the documentation."""
    lines = ["| attack | isolation `database` | isolation `schema` |", "|---|---|---|"]
    for group, attacks in GROUPS.items():
        lines.append(f"| **{group}** | | |")
        lines += [f"| {one.name} | {_cell(one, 'database')} | {_cell(one, 'schema')} |" for one in attacks]
    lines.append("| **As kinds of change in `tests/hygiene`** | | |")
    lines += [
        f"| {tried} | {Outcome.CLEANED} | {_in_schema(name)} |" for tried, name in IN_HYGIENE_MATRIX.items()
    ]
    return "\n".join(lines)


def _cell(attack: Attack, isolation: str) -> str:
    if isolation not in attack.isolations:
        return "not possible"
    return f"{attack.outcome}, if freshdb is a superuser" if attack.superuser else str(attack.outcome)


def _in_schema(name: str) -> str:
    [change] = [one for one in CATALOGUE if one.name == name]
    return str(Outcome.REFUSED if "schema" in change.refused else Outcome.CLEANED)
