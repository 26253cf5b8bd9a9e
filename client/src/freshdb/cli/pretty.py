"""Tables and progress for people at a terminal, with rich (the extra ``cli``). The only module that loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from freshdb.cli.watch import Frame
    from freshdb.models import Lease, Pool

STATES: Final[Mapping[str, str]] = {
    "ready": "green",
    "ok": "green",
    "active": "blue",
    "leased": "blue",
    "kept": "magenta",
    "creating": "cyan",
    "building": "cyan",
    "dirty": "yellow",
    "resetting": "yellow",
    "failed": "bold red",
    "expired": "red",
    "revoked": "red",
    "unavailable": "bold red",
    "unreachable": "bold red",
}
"""Colours, always beside the word: nobody needs to tell them apart."""

_BAR: Final[Sequence[tuple[str, str]]] = (
    ("leased", "█"),
    ("kept", "▓"),
    ("dirty", "▒"),
    ("resetting", "▒"),
    ("creating", "░"),
    ("failed", "!"),
    ("ready", "■"),
)
_BAR_CELLS: Final = 24
_LINES_ABOVE_LEASES: Final = 9


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output; what does not fit is folded, never cut, so that ids can be copied."""
    Console(highlight=False).print(_table(headings, [[_styled(cell) for cell in row] for row in rows]))


def progress(what: str) -> Progress:
    """A line on standard error that says what is waited for, and how long already; gone when that is over."""
    line = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )
    line.add_task(what, total=None)
    return line


class Screen:
    """The whole terminal, drawn anew for each frame; as it was before when the block has ended."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, frame: Frame) -> None:
        """Draw one frame."""
        self._live.update(drawn(frame, self._console.height), refresh=True)


def drawn(frame: Frame, height: int) -> RenderableType:
    """One frame of ``status --watch``, no taller than the terminal: pools first, those with waiters on top."""
    health = Text.assemble(
        ("freshdb ", "bold"),
        f"{frame.version or ''} {frame.url}  ",
        (frame.status, STATES.get(frame.status, "")),
        f"  {frame.at:%H:%M:%S}",
        ("   q quits", "dim"),
    )
    parts: list[RenderableType] = [health]
    wrong = [f"{name}: {said}" for name, said in frame.checks.items() if said != "ok"]
    parts += [Text(one, style="bold red") for one in [*wrong, *([frame.problem] if frame.problem else [])]]
    pools = sorted(frame.pools, key=lambda one: (-one.waiting, one.template, one.isolation))
    room = max(1, (height - _LINES_ABOVE_LEASES - len(parts)) // 2)
    parts += [Padding(_pools(pools[:room]), (1, 0, 0, 0)), _more(len(pools) - room, "pools")]
    left = max(1, height - _LINES_ABOVE_LEASES - len(parts) - min(room, len(pools)))
    leases = sorted(frame.leases, key=lambda one: one.granted_at)
    parts += [Padding(_leases(leases[:left], frame), (1, 0, 0, 0)), _more(len(leases) - left, "leases")]
    return Group(*parts)


def bar(pool: Pool) -> Text:
    """A pool's databases by state, as parts of what it may have."""
    most = max(pool.max_size, sum(pool.databases.values()), 1)
    line, drawn_cells, counted = Text(), 0, 0
    for state, cell in _BAR:
        number = pool.databases.get(state, 0)
        counted += number
        # Of what there is, at least one cell is seen.
        until = min(_BAR_CELLS, max(round(counted * _BAR_CELLS / most), drawn_cells + (number > 0)))
        line.append(cell * (until - drawn_cells), style=STATES[state])
        drawn_cells = max(drawn_cells, until)
    return line.append("·" * (_BAR_CELLS - drawn_cells), style="dim")


def _pools(pools: Sequence[Pool]) -> Table:
    headings = (
        "pool",
        "isolation",
        "leased █  ready ■  free ·",
        "ready",
        "leased",
        "waiting",
        "most",
        "problem",
    )
    rows: list[list[RenderableType]] = [
        [
            _short(one.template),
            one.isolation,
            bar(one),
            str(one.databases.get("ready", 0)),
            str(one.databases.get("leased", 0) + one.databases.get("kept", 0)),
            Text(str(one.waiting), style="bold red" if one.waiting else ""),
            str(one.max_size),
            Text("; ".join(one.refusal) or one.last_error or "", style="red"),
        ]
        for one in pools
    ]
    return _table(headings, rows)


def _leases(leases: Sequence[Lease], frame: Frame) -> Table:
    rows: list[list[RenderableType]] = [
        [
            one.id,
            _styled(one.state),
            _short(one.template),
            one.holder.get("name", ""),
            _ago((frame.at - one.granted_at).total_seconds()),
            _ago((one.expires_at - frame.at).total_seconds()) if one.expires_at else "-",
        ]
        for one in leases
    ]
    return _table(("lease", "state", "pool", "holder", "held for", "ends in"), rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[RenderableType]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _styled(word: str) -> Text:
    return Text(word, style=STATES.get(word, ""))


def _more(number: int, what: str) -> Text:
    return Text(f"… and {number} more {what}" if number > 0 else "", style="dim")


def _short(reference: str) -> str:
    from freshdb.cli.output import short  # noqa: PLC0415 - which loads this module

    return short(reference)


def _ago(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:  # noqa: PLR2004 - a minute
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
