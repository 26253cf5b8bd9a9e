"""Try every step, and write the page of the tried steps: ``python -m tests.crash`` (``make crash``)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "crash.md"

TEXT = """# A replica that dies at every step

`make crash` wrote this page. A process of its own runs each scenario below. It is killed (`SIGKILL`) instead of taking
one step: sending one statement, script or commit to PostgreSQL or Redis. This is done once for every step of the scenario.
Then another replica continues, the callers of the first one retry, and within 15 s each of this holds:

- No database has two leases, and no granted lease is lost or ended.
- Every database can be leased, and none shows leftovers of an earlier holder.
- The URL of a released lease reaches nothing.
- Once the template is retired, no role, database, schema, row or key is left.

{total} steps, each tried once. None failed.

| scenario | isolation | steps |
|---|---|---:|
{rows}
"""


def main() -> int:
    """Run the tests, and write the page if all pass."""
    with tempfile.TemporaryDirectory() as directory:
        counted = Path(directory) / "counted"
        command = [sys.executable, "-m", "pytest", "-q", "-n", os.environ.get("WORKERS", "2"), "tests/crash"]
        environment = os.environ | {"FRESHDB_SHARES": "all", "FRESHDB_CRASH_COUNTED": str(counted)}
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        if code == 0:
            rows = sorted(counted.read_text().splitlines())
            total = sum(int(row.split("|")[3]) for row in rows)
            PAGE.write_text(TEXT.format(total=f"{total:,}", rows="\n".join(rows)))
    return code


if __name__ == "__main__":
    sys.exit(main())
