"""Tables and progress at a terminal, with rich (the extra ``cli``). Only this module imports rich."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from freshdb.cli.text import short

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from freshdb.cli.frame import Frame
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
"""The colour of each state. The word is always shown, too, for users who cannot tell colours apart."""

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
    """Print a table to standard output. Long cells are folded, never cut, so that ids can be copied."""
    Console(highlight=False).print(_table(headings, [[_style(cell) for cell in row] for row in rows]))


def progress(description: str) -> Progress:
    """Make a line on standard error with the reason and the duration of a wait. It disappears at the end."""
    line = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )
    line.add_task(description, total=None)
    return line


class Screen:
    """The whole terminal, redrawn for each frame. The end of the block restores its former content."""

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
        self._live.update(draw(frame, self._console.height), refresh=True)


def draw(frame: Frame, height: int) -> RenderableType:
    """Draw one frame of ``status --watch`` that fits the terminal. Pools with waiting requests come first."""
    health = Text.assemble(
        ("freshdb ", "bold"),
        f"{frame.version or ''} {frame.url}  ",
        (frame.status, STATES.get(frame.status, "")),
        f"  {frame.at:%H:%M:%S}",
        ("   q quits", "dim"),
    )
    parts: list[RenderableType] = [health]
    wrong = [f"{name}: {state}" for name, state in frame.checks.items() if state != "ok"]
    parts += [Text(one, style="bold red") for one in [*wrong, *([frame.problem] if frame.problem else [])]]
    pools = sorted(frame.pools, key=lambda one: (-one.waiting, one.template, one.isolation))
    room = max(1, (height - _LINES_ABOVE_LEASES - len(parts)) // 2)
    parts += [Padding(_pools(pools[:room]), (1, 0, 0, 0)), _more(len(pools) - room, "pools")]
    left = max(1, height - _LINES_ABOVE_LEASES - len(parts) - min(room, len(pools)))
    leases = sorted(frame.leases, key=lambda one: one.granted_at)
    parts += [Padding(_leases(leases[:left], frame), (1, 0, 0, 0)), _more(len(leases) - left, "leases")]
    return Group(*parts)


def pool_bar(pool: Pool) -> Text:
    """Draw a pool's databases by state, as parts of its maximum size."""
    most = max(pool.max_size, sum(pool.databases.values()), 1)
    line, cells, counted = Text(), 0, 0
    for state, cell in _BAR:
        number = pool.databases.get(state, 0)
        counted += number
        # A state that has databases gets at least one cell.
        until = min(_BAR_CELLS, max(round(counted * _BAR_CELLS / most), cells + (number > 0)))
        line.append(cell * (until - cells), style=STATES[state])
        cells = max(cells, until)
    return line.append("·" * (_BAR_CELLS - cells), style="dim")


def _pools(pools: Sequence[Pool]) -> Table:
    headings = (
        "pool",
        "isolation",
        "leased █  ready ■  free ·",
        "ready",
        "leased",
        "waiting",
        "max size",
        "problem",
    )
    rows: list[list[RenderableType]] = [
        [
            short(one.template),
            one.isolation,
            pool_bar(one),
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
            _style(one.state),
            short(one.template),
            one.holder.get("name", ""),
            _duration((frame.at - one.granted_at).total_seconds()),
            _duration((one.expires_at - frame.at).total_seconds()) if one.expires_at else "-",
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


def _style(word: str) -> Text:
    return Text(word, style=STATES.get(word, ""))


def _more(number: int, kind: str) -> Text:
    return Text(f"… and {number} more {kind}" if number > 0 else "", style="dim")


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:  # noqa: PLR2004 - a minute
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
