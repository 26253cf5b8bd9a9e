"""Screenshots for the docs from the output that tests see, only with FRESHDB_SCREENSHOTS=1."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
IMAGES: Final = DOCS / "images"
_MAX_BYTES: Final = 150_000
_FRAME: Final = """<svg xmlns="http://www.w3.org/2000/svg" class="rich-terminal" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>{lines}</defs>
<rect fill="#292929" width="{width}" height="{height}" rx="8"/>
<g transform="translate(9, 20)" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""rich's own frame would load a font from another website."""


def requested() -> bool:
    """Return true if this run writes the screenshots."""
    return os.environ.get("FRESHDB_SCREENSHOTS") == "1"


def check_size(path: Path) -> None:
    """Check the size of a screenshot, because it stays in the repository for ever."""
    assert path.stat().st_size < _MAX_BYTES


def save_terminal(output: str, name: str) -> None:
    """Save the last complete frame of a terminal program as an SVG. Each frame begins at the top left corner."""
    if not requested():
        return
    from rich.console import Console  # noqa: PLC0415 - an extra
    from rich.text import Text  # noqa: PLC0415

    frame = [one for one in output.replace("\r", "").split("\x1b[H") if one.strip()][-2]
    lines = Text.from_ansi(frame).split()
    for line in lines:
        line.rstrip()
    console = Console(
        record=True,
        width=max(line.cell_len for line in lines) + 2,
        file=StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(Text("\n").join(lines[: max(n for n, line in enumerate(lines) if line) + 1]))
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"terminal-{name}.svg"
    console.save_svg(str(path), code_format=_FRAME, unique_id=f"terminal-{name}")
    check_size(path)
