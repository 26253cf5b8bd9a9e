"""enforce the state machine by triggers."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

_TRANSITIONS: dict[str, dict[str | None, tuple[str | None, ...]]] = {
    # None is "no row": its entry lists the states that an INSERT may use, and states that lead to it may be deleted.
    "databases": {
        None: ("creating",),
        "creating": ("ready", "failed", "dropping"),
        "ready": ("leased", "dirty", "dropping"),
        "leased": ("dirty", "kept", "resetting"),
        "kept": ("dirty",),
        "dirty": ("resetting", "dropping"),
        "resetting": ("ready", "leased", "dirty", "failed"),
        "failed": ("dropping",),
        "dropping": (None,),
    },
    "leases": {
        None: ("active",),
        "active": ("kept", "released", "expired", "revoked"),
        "kept": ("released", "expired", "revoked"),
        "released": (None,),
        "expired": (None,),
        "revoked": (None,),
    },
    "templates": {
        None: ("building",),
        "building": ("ready", "failed"),
        "ready": ("retired",),
        "failed": ("building", "retired"),
        "retired": (None,),
    },
}

# No WHEN clause: PostgreSQL parses it once per statement, which takes longer than this function. No SET search_path, which
# takes ten times as long: the function uses operators of pg_catalog alone, and no table.
_FUNCTION = """
CREATE OR REPLACE FUNCTION check_{table}_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.state = OLD.state OR (CASE OLD.state {allowed} ELSE false END) THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION '% %: transition from % to % is illegal (legal: %)',
            TG_TABLE_NAME, OLD.id, OLD.state, NEW.state, CASE OLD.state {legal} ELSE 'none' END
            USING ERRCODE = 'LC001';
    ELSIF TG_OP = 'INSERT' THEN
        IF NEW.state IN ({entries}) THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION '% %: insert in state % is illegal (legal: %)',
            TG_TABLE_NAME, NEW.id, NEW.state, concat_ws(', ', {entries}) USING ERRCODE = 'LC001';
    ELSIF OLD.state IN ({exits}) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '% %: delete in state % is illegal (legal: %)',
        TG_TABLE_NAME, OLD.id, OLD.state, concat_ws(', ', {exits}) USING ERRCODE = 'LC001';
END
$$
"""

_TRIGGER = """
CREATE OR REPLACE TRIGGER check_state BEFORE INSERT OR UPDATE OF state OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION check_{table}_state()
"""


def _function(table: str) -> str:
    edges = {
        old: [new for new in news if new is not None] for old, news in _TRANSITIONS[table].items() if old
    }
    legal = {old: news for old, news in edges.items() if news}
    return _FUNCTION.format(
        table=table,
        allowed=" ".join(f"WHEN '{old}' THEN NEW.state IN ({_listed(news)})" for old, news in legal.items()),
        legal=" ".join(f"WHEN '{old}' THEN '{', '.join(news)}'" for old, news in legal.items()),
        entries=_listed([new for new in _TRANSITIONS[table][None] if new]),
        exits=_listed([old for old, news in _TRANSITIONS[table].items() if old and None in news]),
    )


def _listed(states: list[str]) -> str:
    return ", ".join(f"'{state}'" for state in states)


def upgrade() -> None:
    """Apply. Each table in a transaction of its own: with locks on two, it could deadlock with replicas at work."""
    with op.get_context().autocommit_block():
        for table in _TRANSITIONS:
            op.execute(_function(table))
            op.execute(_TRIGGER.format(table=table))


def downgrade() -> None:
    """Undo."""
    for table in _TRANSITIONS:
        op.execute(f"DROP TRIGGER check_state ON {table}")
        op.execute(f"DROP FUNCTION check_{table}_state()")
