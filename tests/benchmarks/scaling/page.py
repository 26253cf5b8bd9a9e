"""``docs/scaling.md``, written from ``docs/scaling.json``. No figure is typed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tests.benchmarks.results import milliseconds
from tests.benchmarks.scaling.findings import Findings
from tests.benchmarks.scaling.fleet import HOLD_SECONDS, SERVER_CORES, Forecast, Validation
from tests.benchmarks.scaling.growth import HISTORY, POOLS, Cost
from tests.benchmarks.scaling.measured import PARTS, Measured

NAMES = {
    "replica": "replicas",
    "control": "the control plane's PostgreSQL",
    "server": "managed servers",
    "redis": "Redis",
    "client": "clients",
}

TEXT = """# Scaling past one machine

`make scaling` writes this page from `scaling.json`. No figure is typed by hand. The measurements were made on one
machine of two cores. All larger fleets are simulated from them, and marked as simulated.

## Resources per lease rate

| part | processor time of a lease | leases a second per core like these |
|---|---:|---:|
{answer}

Plan **a replica** (one process, one core) **for every {replica:.0f} leases a second, and a core of the control plane's
server for every {control:.0f}**. Both figures leave a fifth free. Add more for the loops (below). An installation has
one Redis, which uses one core and is saturated at {redis:.0f} leases a second. Managed servers need a core for every
{server:.0f} leases a second of holders that do as little as those here. The load of your own tests is extra.

## The part that saturates first

Simulated: each holder acquires, holds its lease for {hold:g} s on average, and releases, in a loop. There are a quarter more
replicas than necessary, and {server_cores} cores in each managed server.

{forecasts}

*Limit*: the leases a second that saturate a part, together with the loops of all replicas.
{first}

## Remedies

The largest of these fleets, with one thing changed:

{remedies}

Connections: each replica opens up to {control_connections} to the control plane's server and up to {server_connections} to
each managed one (`FRESHDB_IDLE_SESSIONS` and `FRESHDB_PROVISION_CONCURRENCY` make it fewer), so that `max_connections` has
to grow with the number of replicas. Several installations (each with a control plane, a Redis and servers of its own) share
nothing, and so divide all load.

A Redis Cluster gains nothing for one installation: all its keys are in one slot, and so on one node. It works where every
replica is given the address of that node. Any other node refuses, with the right address in the message
(`tests/integration/redis/test_cluster.py`).

## Measured

{measured}

{spread}

{idle}

{rounds}

## Simulated, against measured

The measured loop, simulated as one station that has the part of the two cores that other programs left. The cost of a lease
is taken from the row with the most holders, so only the other rows are predictions.

{validations}

## Growth with the number of databases

One call, with the given number of databases in {pools} pools on {pools} servers, {history} times as many ended leases, a
deadline in Redis for each database, and a waiter for every ten. The figures are milliseconds of processor time in the
backend and in the calling replica. Blocks are those that PostgreSQL read.

{growth}

## Method and limits

- Processor times are counted by the system for each process, including ended ones. They do not depend on the load of the
  machine. Leases a second and waiting times do, and so were compared with the part that other programs left.
  {calibration}
- The simulator (`tests/benchmarks/scaling/simulation.py`) is checked against Erlang's formulas and exact mean value analysis
  by its own tests. Service times are exponential. The division of a lease's cost between acquire, release and reset is a
  guess, which affects only waiting times.
- The loops of every replica are counted twice: as measured at rest on the small site, and as they grow. Work that one
  replica does for all is simulated as if the replicas alternated.
- These parts were not measured: networks (everything was on loopback), disks (`fsync` was off, and a control plane that
  waits for its disk answers later, for the same processor time), the catalogs of managed servers with a thousand databases,
  which the reconciler of one replica reads every ten seconds, wake-ups, which go to all replicas, long queues, and the
  dashboard.
- {machine}.
"""


def page(findings: Findings) -> str:
    """Return the page, or nothing if a part has not been measured yet."""
    if findings.measured is None or findings.growth is None or findings.simulated is None:
        return ""
    measured, costs, simulated = findings.measured.found, findings.growth.found, findings.simulated
    rates = {part: 1 / measured.cpu_seconds(part) for part in PARTS}
    largest = simulated.forecasts[-1]
    return TEXT.format(
        answer="\n".join(
            f"| {NAMES[part]} | {milliseconds(measured.cpu_seconds(part))} ms | {rates[part]:,.0f} |"
            for part in PARTS
        ),
        **{part: rates[part] * (0.8 if part in {"replica", "control"} else 1) for part in PARTS},
        hold=HOLD_SECONDS,
        server_cores=SERVER_CORES,
        forecasts=_forecasts(simulated.forecasts),
        first=_saturation(simulated.forecasts),
        remedies=_remedies(simulated.remedies),
        control_connections=largest.control_connections * largest.installations // largest.replicas,
        server_connections=largest.server_connections * largest.installations // largest.replicas,
        measured=(
            f"{measured.replicas} replicas, {measured.servers} managed servers, one for the control plane, one Redis, "
            f"{measured.databases} databases of 30 tables in {measured.servers} pools. Holders acquire, connect, insert "
            "into three tables, close and release. Per lease: "
            f"{measured.per_lease('statements'):.1f} transactions of the control plane, "
            f"{measured.per_lease('scripts'):.1f} scripts and {measured.per_lease('commands'):.0f} commands of Redis "
            "(those within scripts included)."
        ),
        spread=_spread(measured),
        idle=_idle(measured),
        rounds=_rounds(measured),
        validations=_validations(simulated.validations),
        pools=POOLS,
        history=HISTORY,
        growth=_growth(costs),
        calibration=f"Calibration: {findings.measured.calibration}.",
        machine=f"Measured {findings.measured.at:%Y-%m-%d}, {findings.measured.machine}",
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        f"| {' | '.join(row)} |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    ).replace("| --- |", "|---|")


def _forecasts(forecasts: Sequence[Forecast]) -> str:
    head = [
        "servers · databases · holders",
        "replicas",
        "control plane's cores",
        "leases/s",
        "acquire p50 · p99",
    ]
    head += [f"{NAMES[part]}: use, limit" for part in PARTS[:-1]]
    return _table(
        head,
        [
            [
                f"{one.servers} · {one.databases:,} · {one.holders:,}",
                f"{one.replicas}",
                f"{one.control_cores}",
                f"{one.leases_per_second:,.0f}",
                _latency(one.acquire_p50_seconds, one.acquire_p99_seconds),
                *(f"{one.used[part]:.0%}, {one.limits[part]:,.0f}/s" for part in PARTS[:-1]),
            ]
            for one in forecasts
        ],
    )


def _latency(p50_seconds: float, p99_seconds: float) -> str:
    return f"{milliseconds(p50_seconds)} · {milliseconds(p99_seconds)} ms"


def _saturation(forecasts: Sequence[Forecast]) -> str:
    one = forecasts[0]
    each = one.limits["replica"] / one.replicas
    after = ", ".join(
        f"with {one.holders:,} holders {NAMES[one.next]} (at {one.limits[one.next]:,.0f})"
        for one in forecasts
    )
    return (
        f"Replicas saturate first, each at {each:,.0f} leases a second in the smallest of these fleets, and can be added. "
        f"Next: {after}."
    )


def _remedies(remedies: dict[str, Forecast]) -> str:
    return _table(
        ["changed", "replicas", "leases/s", "saturates first", "at"],
        [
            [
                what,
                f"{one.replicas}",
                f"{one.leases_per_second:,.0f}",
                NAMES[one.first],
                f"{one.limits[one.first]:,.0f}/s",
            ]
            for what, one in remedies.items()
        ],
    )


def _spread(measured: Measured) -> str:
    most = max(one.holders for one in measured.rounds)
    full = [one for one in measured.rounds if one.holders == most]
    leases = sum(one.leases for one in full)
    replicas = [sum(one.by_replica[n] for one in full) / leases for n in range(measured.replicas)]
    servers = [sum(one.by_server[name] for one in full) / leases for name in full[0].by_server]
    return (
        f"With {most} holders, each at one replica and one template: leases by replica {_shares(replicas)}. By server "
        f"{_shares(servers)}. A template is placed on the server that is used the least, with its pools."
    )


def _shares(shares: Sequence[float]) -> str:
    return ", ".join(f"{one:.0%}" for one in shares)


def _idle(measured: Measured) -> str:
    idle = measured.idle
    cores = ", ".join(f"{NAMES[part]} {used:.2%}" for part, used in idle.cores.items())
    return (
        f"At rest, each replica costs every second: {idle.statements:.1f} transactions, {idle.commands:.0f} commands of "
        f"Redis. Of a core: {cores}."
    )


def _rounds(measured: Measured) -> str:
    by_holders = {
        holders: [one for one in measured.rounds if one.holders == holders]
        for holders in sorted({one.holders for one in measured.rounds})
    }
    head = ["holders", "leases/s", "acquire p50 · p99", *(f"{NAMES[part]}, CPU ms/lease" for part in PARTS)]
    return _table(
        [*head, "other programs, cores"],
        [
            [
                f"{holders}",
                f"{median(one.leases_per_second for one in rounds):.0f}",
                _latency(
                    median(one.acquire_p50_seconds for one in rounds),
                    median(one.acquire_p99_seconds for one in rounds),
                ),
                *(
                    milliseconds(
                        sum(one.cpu_seconds[part] for one in rounds) / sum(one.leases for one in rounds)
                    )
                    for part in PARTS
                ),
                f"{median(one.others_cores for one in rounds):.2f}",
            ]
            for holders, rounds in by_holders.items()
        ],
    )


def _validations(validations: Sequence[Validation]) -> str:
    return _table(
        ["holders", "cores left", "measured, leases/s", "simulated", "error"],
        [
            [
                f"{one.holders}",
                f"{one.cores:.2f}",
                f"{one.measured:.1f}",
                f"{one.predicted:.1f}",
                f"{one.error:+.0%}",
            ]
            for one in validations
        ],
    )


def _growth(costs: Sequence[Cost]) -> str:
    sizes = sorted({one.there for one in costs})
    calls: dict[tuple[str, str], list[Cost]] = {}
    for one in costs:
        calls.setdefault((one.backend, one.what), []).append(one)
    head = [
        "call",
        "interval, of each replica (or of one for all)",
        *(f"{size:,}: backend · replica" for size in sizes),
        "blocks",
    ]
    return _table(
        head,
        [
            [
                f"{what} ({NAMES[backend].removeprefix('the ')})",
                _interval(found[0]) + (", by one" if found[0].by_one else ""),
                *(
                    f"{milliseconds(one.backend_seconds)} · {milliseconds(one.caller_seconds)}"
                    for one in found
                ),
                " · ".join(f"{one.blocks:,.0f}" for one in found) if backend == "control" else "",
            ]
            for (backend, what), found in calls.items()
        ],
    )


def _interval(cost: Cost) -> str:
    return f"every {1 / cost.per_second:g} s" if cost.per_second else "as needed"
