from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_drawing_in_the_docs_is_the_state_machine_of_the_code() -> None:
    drawing = runpy.run_path(str(ROOT / "tools" / "draw_lifecycle.py"))["drawing"]
    assert (ROOT / "docs" / "lifecycle.md").read_text() == drawing(), "run: python tools/draw_lifecycle.py"
