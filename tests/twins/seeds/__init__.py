"""Differences that tests put into a clone, each with the probe that must find it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.twins.seeds import conduct, objects, physical
from tests.twins.seeds.seed import Seed, seed

__all__ = ["SEEDS", "Seed"]

IN_SCHEMAS: Final = tuple(
    replace(one, isolation="schema")
    for one in (
        *physical.ORDER[:3],
        *physical.PLANS[:3],
        *physical.STATISTICS[:4],
        *physical.COUNTERS[:6],
        *physical.SIZES[:3],
        *objects.OBJECTS[:8],
        *objects.RIGHTS[:3],
        *conduct.SESSIONS[:5],
        *conduct.MARKERS,
        seed(
            "table in the schema of all",
            "catalogs.owned_objects",
            "CREATE TABLE public.left_by_{role} (n integer)",
            "ALTER TABLE public.left_by_{role} OWNER TO {role}",
            superuser=True,
        ),
        seed("large object", "catalogs.large_objects", "SELECT lo_create(0)"),
        seed(
            "default rights",
            "catalogs.default_privileges",
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
        ),
        seed("setting of the role", "catalogs.settings", "ALTER ROLE CURRENT_USER SET work_mem = '5MB'"),
    )
)
SEEDS: Final = (
    *physical.ORDER,
    *physical.PLANS,
    *physical.STATISTICS,
    *physical.COUNTERS,
    *physical.SIZES,
    *objects.OBJECTS,
    *objects.RIGHTS,
    *conduct.SESSIONS,
    *conduct.BEHAVIOUR,
    *conduct.MARKERS,
    *IN_SCHEMAS,
)
