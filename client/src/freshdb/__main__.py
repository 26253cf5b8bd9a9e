"""``python -m freshdb``: the command line."""

from __future__ import annotations

import sys

from freshdb.cli import main

sys.exit(main())
