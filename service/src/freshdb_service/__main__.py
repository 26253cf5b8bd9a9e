"""``python -m freshdb_service``: the same as ``freshdb serve``."""

from __future__ import annotations

import sys

from freshdb_service.serve import main

sys.exit(main())
