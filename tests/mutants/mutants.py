"""The mutants, statement by statement.

The list is mechanical: every state that a statement sets or compares, and every condition of its ``WHERE`` clauses. A
condition whose removal cannot change what the statement does is listed with the reason, and is not tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a statement's source text, each ``find`` of which stands there once."""

    find: str
    replacement: str
    second: tuple[str, str] | None = None
    """A second place that says the same."""

    @property
    def edits(self) -> tuple[tuple[str, str], ...]:
        """Every change."""
        return ((self.find, self.replacement), *([] if self.second is None else [self.second]))


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A change that makes no difference, and the reason."""

    find: str
    reason: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement and its mutants.

    Attributes:
        name: module of ``store`` and name in it.
        tests: expression for pytest's ``-k``. It selects the tests of ``tests/integration/store/test_MODULE.py``.
        mutants: the changes to try.
        equivalents: the changes that make no difference.
    """

    name: str
    tests: str
    mutants: tuple[Mutant, ...]
    equivalents: tuple[Equivalent, ...] = ()

    @property
    def module(self) -> str:
        """The module of ``store``."""
        return self.name.partition(".")[0]


_M = Mutant
_CLAIM_TESTS: Final = "lost_its_claim or extended or moved or postponed or row_is_deleted"
_BUILD_TESTS: Final = "attempt"

STATEMENTS: Final = (
    Statement(
        "databases.plan",
        "plan or limit or quota",
        (
            _M("DatabaseState.CREATING.value", "DatabaseState.READY.value"),
            _M('"claimed_until": func.clock_timestamp() + _seconds(claim_seconds),', ""),
            _M(', templates.c.state == "ready")', ")"),
            _M("== DatabaseState.FAILED", "== DatabaseState.CREATING"),
            _M("if found.failed:", "if False:"),
            _M("databases.c.state.in_(SUPPLY)", "databases.c.state == 'failed'"),
            _M(").where(databases.c.pool_id == pool_id)", ").select_from(databases)"),
            _M("row.max_size - found.have, ", ""),
            _M(", enough - found.supply", ""),
            _M(", max_databases - found.on_server", ""),
            _M("room = await room_of(connection, pool_id, room)", "pass"),
        ),
    ),
    Statement(
        "databases._CLAIM_DROPPING",
        "dropping",
        (
            _M("SET state = 'dropping'", "SET state = 'resetting'"),
            _M("generation = generation + 1, ", ""),
            _M("password = NULL,", ""),
            _M("claimed_until = clock_timestamp() + make_interval(secs => :claim_seconds),", ""),
            _M("state IN ('dropping', 'failed')", "state = 'failed'"),
            _M("state IN ('dropping', 'failed')", "state = 'dropping'"),
            _M("unwanted.state IN ('ready', 'dirty')", "unwanted.state = 'dirty'"),
            _M("unwanted.state IN ('ready', 'dirty')", "unwanted.state = 'ready'"),
            _M("AND c.server = ANY (:servers)", ""),
            _M("AND (c.not_before IS NULL OR c.not_before <= clock_timestamp())", ""),
            _M("c.not_before IS NULL OR ", ""),
            _M(" OR c.not_before <= clock_timestamp()", ""),
            _M("(c.state = 'dropping' AND (c.claimed", "((c.claimed"),
            _M(" AND (c.claimed_until IS NULL OR c.claimed_until <= clock_timestamp())", ""),
            _M("c.claimed_until IS NULL OR ", ""),
            _M(" OR c.claimed_until <= clock_timestamp()", ""),
            _M("c.state IN ('ready', 'dirty') AND ", ""),
            _M(" AND t.state <> 'ready'", "", second=("gone.state <> 'ready' AND ", "")),
            _M("c.state = 'failed' AND ", ""),
            _M("c.not_before IS NOT NULL\n                OR ", ""),
            _M(
                "c.not_before IS NOT NULL\n"
                "                OR c.state_changed_at <= clock_timestamp() - make_interval(secs => :failed_seconds)",
                "true",
            ),
            _M("OR c.state_changed_at <= clock_timestamp() - make_interval(secs => :failed_seconds)", ""),
            _M("LIMIT :most", ""),
        ),
        (
            Equivalent(
                "WHERE gone.state <> 'ready' AND unwanted.state IN ('ready', 'dirty')",
                "finds candidates by an index; the conditions below repeat it",
            ),
            Equivalent(
                "CASE WHEN d.state = 'dropping' THEN d.state_changed_at ELSE now() END",
                "an instant that is shown, and orders the next claims",
            ),
        ),
    ),
    Statement(
        "databases._unchanged",
        _CLAIM_TESTS,
        (
            _M("databases.c.id == row.id,", ""),
            _M("databases.c.state == row.state.value,", ""),
            _M("databases.c.generation == row.generation,", ""),
        ),
    ),
    Statement(
        "databases.extend_claim",
        _CLAIM_TESTS,
        (
            _M(".where(*_unchanged(row))", ".where(databases.c.id == row.id)"),
            _M("claimed_until=func.clock_timestamp() + _seconds(claim_seconds)", "error=None"),
        ),
    ),
    Statement(
        "databases.move",
        _CLAIM_TESTS,
        (
            _M("state=new_state.value,", ""),
            _M("state=new_state.value", "state=DatabaseState.DIRTY.value"),
            _M(".where(*_unchanged(row))", ".where(databases.c.id == row.id)"),
            _M("claimed_until=None,", ""),
        ),
    ),
    Statement(
        "databases.postpone",
        _CLAIM_TESTS,
        (
            _M(".where(*_unchanged(row))", ".where(databases.c.id == row.id)"),
            _M("claimed_until=None, ", ""),
            _M(", not_before=func.clock_timestamp() + _seconds(seconds)", ""),
        ),
    ),
    Statement(
        "databases.delete_row",
        _CLAIM_TESTS,
        (_M(".where(*_unchanged(row))", ".where(databases.c.id == row.id)"),),
    ),
    Statement(
        "databases._DEAD",
        "dead or released or back or dropping_database_without",
        (
            _M("d.state IN ('creating', 'resetting') AND d.claimed", "d.claimed"),
            _M("d.state IN ('creating', 'resetting') AND d", "d.state = 'creating' AND d"),
            _M("d.state IN ('creating', 'resetting') AND d", "d.state = 'resetting' AND d"),
            _M(" AND d.claimed_until <= statement_timestamp()", ""),
            _M("d.state IN ('creating', 'resetting', 'dropping') AND ", ""),
            _M("d.state IN ('creating', 'resetting', 'dropping')", "d.state IN ('resetting', 'dropping')"),
            _M("d.state IN ('creating', 'resetting', 'dropping')", "d.state IN ('creating', 'dropping')"),
            _M("d.state IN ('creating', 'resetting', 'dropping')", "d.state IN ('creating', 'resetting')"),
            _M("d.claimed_until IS NOT NULL AND ", ""),
            _M(
                "(d.id, d.generation) IN (\n"
                "        SELECT * FROM unnest(CAST(:gone_ids AS uuid[]), CAST(:gone_generations AS integer[])))",
                "d.id = ANY (CAST(:gone_ids AS uuid[]))",
            ),
            _M(
                " AND (d.id, d.generation) IN (\n"
                "        SELECT * FROM unnest(CAST(:gone_ids AS uuid[]), CAST(:gone_generations AS integer[])))",
                "",
            ),
        ),
    ),
    Statement(
        "databases._RELEASE",
        "dead or released or back or dropping_database_without",
        (
            _M("d.state = 'resetting' AND ", "d.state = 'creating' AND "),
            _M(" AND l.state IN ('active', 'kept')", ""),
            _M("l.state IN ('active', 'kept')", "l.state = 'active'"),
            _M("l.state IN ('active', 'kept')", "l.state = 'kept'"),
            _M("d.state IN ('creating', 'dropping') THEN", "d.state = 'creating' THEN"),
            _M("d.state IN ('creating', 'dropping') THEN", "d.state = 'dropping' THEN"),
            _M("THEN 'dropping'", "THEN 'ready'"),
            _M("THEN 'dropping'", "THEN 'dirty'"),
            _M("WHEN d.lease_id IN (SELECT id FROM held)", "WHEN d.lease_id IS NOT NULL"),
            _M("THEN 'leased'", "THEN 'ready'"),
            _M("THEN 'leased'", "THEN 'dirty'"),
            _M("ELSE 'dirty'", "ELSE 'ready'"),
            _M("claimed_until = NULL, ", ""),
            _M("WHERE {_DEAD}", ""),
            _M("WHERE l.id = released.lease_id AND", "WHERE"),
            _M(" AND released.state = 'leased'", ""),
        ),
        (
            Equivalent(
                "WHERE d.state = 'resetting' AND l.state",
                "a row that is creating or dropping has no lease; the conditions of the UPDATE decide about all others",
            ),
            Equivalent("AND ({_DEAD})", "only rows that the UPDATE releases are looked up in it"),
        ),
    ),
    Statement(
        "databases._SHRINK",
        "shrinks or stays",
        (
            _M("SET state = 'dropping'", "SET state = 'dirty'"),
            _M("c.pool_id = :pool_id AND", "(c.pool_id = :pool_id OR true) AND"),
            _M(" AND c.state = 'ready'", ""),
            _M("AND c.state_changed_at <= clock_timestamp() - make_interval(secs => :idle_seconds)", ""),
            _M("ORDER BY c.state_changed_at", "ORDER BY c.state_changed_at DESC"),
            _M("LIMIT :surplus", "LIMIT :surplus + 10"),
        ),
        (
            Equivalent(
                "WHERE d.state = 'ready' AND d.id IN", "the subquery has locked the rows in this state"
            ),
        ),
    ),
    Statement(
        "databases._STRAYS",
        "stray or becomes_dirty",
        (
            _M("SET state = 'dirty'", "SET state = 'ready'"),
            _M("SET state = 'dirty'", "SET state = 'resetting'"),
            _M("lease_id = NULL, ", ""),
            _M("d.state IN ('leased', 'kept')\n      AND ", ""),
            _M("d.state IN ('leased', 'kept')", "d.state = 'leased'"),
            _M("d.state IN ('leased', 'kept')", "d.state = 'kept'"),
            _M(
                "AND NOT EXISTS (SELECT FROM leases l WHERE l.id = d.lease_id AND l.state IN ('active', 'kept'))",
                "",
            ),
            _M("l.id = d.lease_id AND ", ""),
            _M(" AND l.state IN ('active', 'kept')", ""),
            _M("l.state IN ('active', 'kept')", "l.state = 'active'"),
            _M("l.state IN ('active', 'kept')", "l.state = 'kept'"),
        ),
    ),
    Statement(
        "reset_claims._CLAIM",
        "claimed",
        (
            _M("SET state = 'resetting'", "SET state = 'dropping'"),
            _M("generation = generation + 1, ", ""),
            _M(", password = NULL", ""),
            _M(
                ", password = NULL,\n"
                "        claimed_until = clock_timestamp() + make_interval(secs => $3::float8)",
                ", password = CASE WHEN $3::float8 < 0 THEN '' END",
            ),
            _M("c.state = 'dirty' AND ", ""),
            _M("c.state = 'dirty'", "c.state IN ('dirty', 'failed')"),
            _M("c.state = 'dirty'", "c.state IN ('dirty', 'leased')"),
            _M("c.state = 'dirty'", "c.state IN ('dirty', 'resetting')"),
            _M(" AND t.state = 'ready'", ""),
            _M(" AND c.server = ANY ($1::text[])", " AND $1::text[] IS NOT NULL"),
            _M("AND (c.not_before IS NULL OR c.not_before <= clock_timestamp())", ""),
            _M("c.not_before IS NULL OR ", ""),
            _M(" OR c.not_before <= clock_timestamp()", ""),
            _M("LIMIT $2::bigint", "LIMIT $2::bigint + 10"),
        ),
    ),
    Statement(
        "reset_claims._CLAIM_LEASED",
        "claimed",
        (
            _M("WHERE id = $1::uuid AND state", "WHERE $1::uuid IS NOT NULL AND state"),
            _M(" AND state = 'active'", ""),
            _M(" AND principal = $2::text FOR", " FOR"),
            _M("SET state = 'resetting'", "SET state = 'dirty'"),
            _M("generation = d.generation + 1, ", ""),
            _M(", password = NULL", ""),
            _M(
                ", password = NULL,\n"
                "        claimed_until = clock_timestamp() + make_interval(secs => $3::float8)",
                ", password = CASE WHEN $3::float8 < 0 THEN '' END",
            ),
            _M("d.id = holding.database_id AND ", ""),
            _M(" AND d.lease_id = holding.id AND d", " AND d"),
            _M(" AND d.state = 'leased'", ""),
            _M("d.state = 'leased'", "d.state IN ('leased', 'resetting')"),
        ),
    ),
    Statement(
        "reset_claims._RETURN",
        "back or returned",
        (
            _M("WHERE id = $3::uuid AND state IN", "WHERE $3::uuid IS NOT NULL AND state IN"),
            _M(" AND state IN ('active', 'kept') FOR", " FOR"),
            _M("state IN ('active', 'kept')", "state = 'active'"),
            _M("state IN ('active', 'kept')", "state = 'kept'"),
            _M("THEN 'leased'", "THEN 'ready'"),
            _M("THEN 'leased'", "THEN 'dirty'"),
            _M("WHEN $4::bool THEN 'ready' ELSE 'dirty'", "ELSE 'ready'"),
            _M("WHEN $4::bool THEN 'ready' ELSE 'dirty'", "ELSE 'dirty'"),
            _M("WHEN EXISTS (SELECT FROM holding) THEN", "WHEN true THEN"),
            _M("lease_id = (SELECT id FROM holding),", ""),
            _M("claimed_until = NULL, ", ""),
            _M("WHERE id = $1::uuid AND state", "WHERE $1::uuid IS NOT NULL AND state"),
            _M(" AND state = 'resetting'", ""),
            _M(" AND generation = $2::int", " AND $2::int IS NOT NULL"),
            _M("FROM done WHERE l.id = done.lease_id", "FROM done"),
        ),
    ),
    Statement(
        "reset_claims._READY",
        "ready",
        (
            _M("SET state = 'ready'", "SET state = 'dirty'"),
            _M("SET state = 'ready'", "SET state = 'failed'"),
            _M("claimed_until = NULL, ", ""),
            _M("WHERE id = $1::uuid AND", "WHERE $1::uuid IS NOT NULL AND"),
            _M(" AND state = $2::text", " AND $2::text IS NOT NULL"),
            _M(" AND generation = $3::int", " AND $3::int IS NOT NULL"),
        ),
    ),
    Statement(
        "leases._END",
        "end or ended or dirty or left_alone",
        (
            _M("SET state = $2::text", "SET state = 'released' || left($2::text, 0)"),
            _M("ended_at = now(), ", ""),
            _M("WHERE id = $1::uuid AND", "WHERE $1::uuid IS NOT NULL AND"),
            _M(" AND state IN ('active', 'kept') AND", " AND"),
            _M("AND state IN ('active', 'kept')", "AND state = 'active'"),
            _M("AND state IN ('active', 'kept')", "AND state = 'kept'"),
            _M("$3::text IS NULL OR ", ""),
            _M("($3::text IS NULL OR principal = $3::text)", "coalesce($3::text, '') IS NOT NULL"),
            _M("t.state = 'ready' AND ", ""),
            _M(" AND ended.server = ANY ($6::text[])", " AND $6::text[] IS NOT NULL"),
            _M("lease_id = NULL, ", ""),
            _M("THEN 'resetting' ELSE 'dirty' END", "THEN 'dirty' ELSE 'dirty' END"),
            _M("THEN 'resetting' ELSE 'dirty' END", "THEN 'resetting' ELSE 'resetting' END"),
            _M("THEN 'resetting' ELSE 'dirty' END", "THEN 'resetting' ELSE 'kept' END"),
            _M("d.generation + claimed::int", "d.generation"),
            _M(
                "CASE WHEN claimed THEN clock_timestamp() + make_interval(secs => $5::float8) END",
                "NULL::timestamptz",
            ),
            _M("d.state = 'leased' AND EXISTS", "EXISTS"),
            _M(" AND EXISTS (SELECT FROM claim)", ""),
            _M("WHEN g.state = 'resetting' THEN", "WHEN g.state IS NOT NULL THEN"),
            _M("d.id = ended.database_id AND ", ""),
            _M(" AND d.generation = ended.generation", ""),
            _M("d.lease_id = ended.id AND ", ""),
            _M(" AND d.state IN ('leased', 'kept')", ""),
            _M("d.state IN ('leased', 'kept')", "d.state = 'leased'"),
            _M("d.state IN ('leased', 'kept')", "d.state = 'kept'"),
        ),
        (Equivalent("$5::float8 IS NOT NULL AND", "without a claim, the list of servers is empty"),),
    ),
    Statement(
        "leases._LIVE",
        "kept or extended",
        (
            _M("state IN ('active', 'kept')", "true"),
            _M("state IN ('active', 'kept')", "state = 'active'"),
            _M("state IN ('active', 'kept')", "state = 'kept'"),
        ),
    ),
    Statement(
        "leases.keep",
        "kept",
        (
            _M("leases.c.id == lease_id, ", ""),
            _M("leases.c.principal == by.principal, ", ""),
            _M(", _LIVE)", ")"),
            _M("databases.c.id == held.database_id,", ""),
            _M("databases.c.generation == held.generation,", ""),
            _M("databases.c.lease_id == lease_id,", ""),
            _M("databases.c.state.in_([DatabaseState.LEASED.value, DatabaseState.KEPT.value]),", ""),
            _M("[DatabaseState.LEASED.value, DatabaseState.KEPT.value]", "[DatabaseState.LEASED.value]"),
            _M("[DatabaseState.LEASED.value, DatabaseState.KEPT.value]", "[DatabaseState.KEPT.value]"),
            _M("state=DatabaseState.KEPT.value, ", ""),
            _M("state=DatabaseState.KEPT.value", "state=DatabaseState.DIRTY.value"),
            _M("if not kept_database.rowcount:", "if False:"),
            _M("state=LeaseState.KEPT.value,", ""),
            _M("state=LeaseState.KEPT.value", "state=LeaseState.RELEASED.value"),
        ),
    ),
    Statement(
        "leases.extend_ttl",
        "extended",
        (
            _M("leases.c.id == lease_id, ", ""),
            _M(", _LIVE)", ")"),
        ),
    ),
    Statement(
        "leases.prune",
        "deleted",
        (_M(", leases.c.ended_at < before", ""),),
        (
            Equivalent(
                "leases.c.granted_at < before",
                "a lease that ended before an instant was granted before it; the condition uses an index",
            ),
        ),
    ),
    Statement(
        "grant._GRANT",
        "leased or leases or granted or left_as",
        (
            _M(
                "CASE WHEN $13::uuid IS NULL THEN ARRAY['0', NULL] ELSE token_hold($13::uuid) END",
                "CASE WHEN $13::uuid IS NULL OR true THEN ARRAY['0', NULL] END",
            ),
            _M("p.id = $1::uuid AND ", ""),
            _M("p.refusal IS NULL AND ", ""),
            _M(" AND t.state = 'ready'", ""),
            _M("$2::bool OR NOT", "$2::bool IS NULL OR NOT"),
            _M("($2::bool OR NOT EXISTS (", "($2::bool OR true OR NOT EXISTS ("),
            _M("newer.name = t.name AND ", ""),
            _M("newer.state = 'ready' AND ", ""),
            _M(" AND newer.ready_at > t.ready_at", " AND newer.id <> t.id"),
            _M("d.pool_id = $1::uuid AND ", ""),
            _M("d.state = 'ready' AND EXISTS", "EXISTS"),
            _M("d.state = 'ready' AND EXISTS", "d.state IN ('ready', 'dirty') AND EXISTS"),
            _M("d.state = 'ready' AND EXISTS", "d.state IN ('ready', 'resetting') AND EXISTS"),
            _M(
                "AND (SELECT hold IS NOT NULL AND (hold[2] IS NULL OR hold[1]::bigint + $3::bigint <= hold[2]::bigint)"
                " FROM token)",
                "",
            ),
            _M("hold IS NOT NULL AND ", ""),
            _M(
                " AND (hold[2] IS NULL OR hold[1]::bigint + $3::bigint <= hold[2]::bigint)",
                " AND $3::bigint > 0",
            ),
            _M("hold[2] IS NULL OR hold[1]", "hold[1]"),
            _M(" AND EXISTS (SELECT FROM pool)", ""),
            _M("LIMIT $3::bigint", "LIMIT $3::bigint + 1"),
            _M("WHERE (SELECT count(*) FROM picked) = $3::bigint", "WHERE $3::bigint > 0"),
            _M("SET state = 'leased', ", "SET "),
            _M("SET state = 'leased'", "SET state = 'dirty'"),
            _M("lease_id = matched.lease_id, ", ""),
            _M("WHERE d.id = matched.id AND d.generation", "WHERE d.generation"),
            _M("'active', taken.pool_id", "'kept', taken.pool_id"),
        ),
        (
            Equivalent(
                "d.generation = matched.generation AND", "the row was locked with this generation by picked"
            ),
            Equivalent("AND d.state = 'ready'\n    RETURNING", "the row was locked in this state by picked"),
        ),
    ),
    Statement(
        "templates.register",
        "new_template or build or found",
        (
            _M("TemplateState.BUILDING.value", "TemplateState.READY.value"),
            _M("TemplateState.BUILDING.value", "TemplateState.FAILED.value"),
            _M("templates.c.name == wanted.name,", ""),
            _M("templates.c.fingerprint == wanted.fingerprint,", ""),
            _M("templates.c.state != TemplateState.RETIRED.value,", ""),
            _M("template.state is not TemplateState.FAILED and ", ""),
            _M(" and not template.build_overdue", ""),
            _M("if template.state is not TemplateState.FAILED and not template.build_overdue:", "if False:"),
            _M(".where(templates.c.id == template.id)", ""),
            _M("**_NEW_ATTEMPT, ", ""),
        ),
        (
            Equivalent(
                "text(\"state <> 'retired'\")",
                "PostgreSQL refuses any other condition: it must name an index",
            ),
        ),
    ),
    Statement(
        "templates._OVERDUE",
        "build or taken_over or found",
        (
            _M("templates.c.state == TemplateState.BUILDING.value, ", ""),
            _M("templates.c.state == TemplateState.BUILDING.value", "templates.c.state == 'failed'"),
            _M(", templates.c.build_deadline_at <= func.clock_timestamp()", ""),
        ),
    ),
    Statement(
        "templates.take_over_sql_build",
        "taken_over",
        (
            _M("_OVERDUE, ", ""),
            _M(", templates.c.sql.is_not(None)", ""),
            _M(
                ".where(templates.c.id == one.with_for_update(skip_locked=True).scalar_subquery())",
                ".where(one.exists())",
            ),
            _M(", **_NEW_ATTEMPT", ""),
            _M("build_deadline_at=_deadline(claim_seconds), ", ""),
        ),
    ),
    Statement(
        "templates._building",
        _BUILD_TESTS,
        (
            _M("templates.c.id == template_id,", ""),
            _M("templates.c.attempt == attempt,", ""),
            _M("templates.c.state == TemplateState.BUILDING.value,", ""),
        ),
    ),
    Statement(
        "templates.extend",
        _BUILD_TESTS,
        (
            _M(".where(*_building(template_id, attempt))", ".where(templates.c.id == template_id)"),
            _M("build_deadline_at=_deadline(seconds)", "error=None"),
        ),
    ),
    Statement(
        "templates.make_ready",
        _BUILD_TESTS,
        (
            _M(".where(*_building(template_id, attempt))", ".where(templates.c.id == template_id)"),
            _M("state=TemplateState.READY.value,", ""),
            _M("state=TemplateState.READY.value", "state=TemplateState.FAILED.value"),
            _M("build_deadline_at=None,", ""),
            _M("ready_at=func.coalesce(templates.c.ready_at, func.clock_timestamp()),", ""),
        ),
    ),
    Statement(
        "templates.make_failed",
        _BUILD_TESTS,
        (
            _M(".where(*_building(template_id, attempt))", ".where(templates.c.id == template_id)"),
            _M("state=TemplateState.FAILED.value,", ""),
            _M("state=TemplateState.FAILED.value", "state=TemplateState.READY.value"),
            _M("build_deadline_at=None,", ""),
        ),
    ),
    Statement(
        "templates.retire",
        "retired",
        (
            _M("leases.c.template_id == template_id, ", ""),
            _M(', leases.c.state.in_(["active", "kept"])', ""),
            _M('["active", "kept"]', '["active"]'),
            _M('["active", "kept"]', '["kept"]'),
            _M("templates.c.id == template_id,\n        templates", "templates"),
            _M("templates.c.state.in_([TemplateState.READY.value, TemplateState.FAILED.value]),", ""),
            _M("[TemplateState.READY.value, TemplateState.FAILED.value]", "[TemplateState.READY.value]"),
            _M("[TemplateState.READY.value, TemplateState.FAILED.value]", "[TemplateState.FAILED.value]"),
            _M("if not even_leased:", "if False:"),
            _M("if not even_leased:", "if True:"),
            _M("state=TemplateState.RETIRED.value", "state=templates.c.state"),
        ),
    ),
    Statement(
        "templates.retire_outdated",
        "outdated",
        (
            _M("templates.c.id == template_id, ", ""),
            _M(", templates.c.state == TemplateState.READY.value", ""),
            _M("TemplateState.READY.value", "TemplateState.FAILED.value"),
            _M("state=TemplateState.RETIRED.value, ", ""),
        ),
    ),
    Statement(
        "templates._REGISTER_AGAIN",
        "registered_again",
        (
            _M("'building'", "'ready'"),
            _M("FROM templates WHERE id = :old", "FROM templates"),
            _M("FROM pools, again WHERE template_id = :old", "FROM pools, again"),
        ),
    ),
    Statement(
        "templates.keep_outdated",
        "outdated",
        (
            _M("templates.c.id == template_id, ", ""),
            _M("_OUTDATED, ", ""),
            _M(", templates.c.database_name.is_not(None)", ""),
            _M(".where(pools.c.template_id == template_id)", ""),
        ),
    ),
    Statement(
        "templates.retire_unused",
        "retired",
        (
            _M("leases.c.template_id == templates.c.id, ", ""),
            _M(', leases.c.state.in_(["active", "kept"])', ""),
            _M('["active", "kept"]', '["active"]'),
            _M('["active", "kept"]', '["kept"]'),
            _M("templates.c.state.in_([TemplateState.READY.value, TemplateState.FAILED.value]),", ""),
            _M("[TemplateState.READY.value, TemplateState.FAILED.value]", "[TemplateState.READY.value]"),
            _M("[TemplateState.READY.value, TemplateState.FAILED.value]", "[TemplateState.FAILED.value]"),
            _M(
                "templates.c.last_used_at\n"
                "            <= func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, unused_seconds),",
                "",
            ),
            _M("            ~live,\n", ""),
            _M("state=TemplateState.RETIRED.value", "state=templates.c.state"),
        ),
    ),
    Statement(
        "templates.delete_row",
        "row_is_deleted",
        (
            _M("templates.c.id == template_id, ", ""),
            _M(", templates.c.state == TemplateState.RETIRED.value", ""),
        ),
    ),
    Statement(
        "templates._NOTE_DISK",
        "disk",
        (_M("WHERE t.id = measured.id AND ", "WHERE "),),
        (
            Equivalent(
                "AND t.disk_bytes IS DISTINCT FROM measured.disk_bytes", "avoids writing the same value"
            ),
        ),
    ),
    Statement(
        "pools.note_acquired",
        "touched",
        (_M(".where(templates.c.id.in_(used))", ""),),
    ),
)
