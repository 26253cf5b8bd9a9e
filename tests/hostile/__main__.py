"""Print the table of attacks: ``python -m tests.hostile``."""

from __future__ import annotations

import sys

from tests.hostile.catalogue import table

if __name__ == "__main__":
    sys.stdout.write(f"{table()}\n")
