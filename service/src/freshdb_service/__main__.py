"""``python -m freshdb_service``: the same as ``freshdb serve``."""

from __future__ import annotations

import gc
import sys

# Imported modules are never freed, and collecting garbage among them takes a sixth of a start. Serving enables it again.
gc.disable()

from freshdb_service.serve import main  # noqa: E402

sys.exit(main())
