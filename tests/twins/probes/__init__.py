"""The probes: what a test, an ORM, a migration tool or a person can observe with the login of a lease.

Each group is a module. ``PROBES`` has them in the order in which they run within their stage: counters first, because
reading counts, and sizes before anything that could write hint bits.
"""

from __future__ import annotations

from typing import Final

from tests.twins.probes import (
    behaviour,
    catalogs,
    counters,
    definitions,
    marker,
    order,
    plans,
    privileges,
    sessions,
    sizes,
    standard_views,
    statistics,
)
from tests.twins.probes.left_out import LEFT_OUT
from tests.twins.probes.probe import Isolation, Probe, Stage, Within
from tests.twins.probes.values import Json

__all__ = ["LEFT_OUT", "PROBES", "Isolation", "Json", "Probe", "Stage", "Within"]

PROBES: Final[tuple[Probe, ...]] = (
    *counters.PROBES,
    *sizes.PROBES,
    *statistics.PROBES,
    *order.PROBES,
    *plans.PROBES,
    *standard_views.PROBES,
    *definitions.PROBES,
    *catalogs.PROBES,
    *privileges.PROBES,
    *sessions.PROBES,
    *marker.PROBES,
    *behaviour.PROBES,
)
