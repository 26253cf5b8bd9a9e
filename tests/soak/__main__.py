"""``python -m tests.soak MINUTES [SEED]`` (``make soak MINUTES=…``).

It ends with 1 if anything was wrong, or left over, and keeps the history then.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.soak.run import soak


def main() -> int:
    """Soak, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("seed", type=int, nargs="?", default=random.randrange(10**6))  # noqa: S311
    asked = parser.parse_args()
    report, history = asyncio.run(soak(asked.minutes * 60, asked.seed))
    print(report)  # noqa: T201
    if not (report.wrong or report.left):
        return 0
    kept = Path(tempfile.gettempdir()) / f"freshdb-soak-{asked.seed}.jsonl"
    history.write(kept)
    print(f"the history is in {kept}")  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
