"""``python -m freshdb_service``: the same as ``freshdb serve``."""

from __future__ import annotations

import gc
import sys

# What is imported stays: to look for garbage among it takes a sixth of a start. Whoever serves turns it on again.
gc.disable()

from freshdb_service.serve import main  # noqa: E402

sys.exit(main())
