"""What this process knows of templates: read from the first fresh copy of each that it comes across.

Nobody can enter a template itself once it is ready, so that it can be cloned at any moment. A database that was made from
it, and that nobody has had yet, is as good. Nothing in here has to survive: where it is missing, a used database is rebuilt,
and what was missing is read from the new one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from freshdb_service.postgres.reset.audit import Digest, read_digest
from freshdb_service.postgres.reset.baseline import Cause, Site, Unprovable
from freshdb_service.postgres.reset.catalog_fingerprint import Catalogs, Extent
from freshdb_service.postgres.reset.engine import CopySource
from freshdb_service.postgres.reset.table_model import (
    Qualified,
    Relations,
    TableModel,
    copy_out,
    read_picture,
    read_relations,
)
from freshdb_service.postgres.server.server import Server
from freshdb_service.postgres.server.session_cache import Session

SEED_ROWS: Final = 10_000
"""A seeded table with at most so many rows can be loaded again."""
_MOST_SEED_BYTES: Final = 2**25
"""Most bytes of rows that are kept, of all templates together."""
_MOST_TEMPLATES: Final = 100


@dataclass(frozen=True, slots=True)
class TemplateProfile:
    """One template, with one isolation.

    Attributes:
        picture: what it holds.
        relations: what of it has counters, by the numbers that all clones share; nothing for isolation ``schema``.
        seeds: the rows of its small tables, in the text format of ``COPY``.
        extents: fingerprint of its clones' catalogs; empty for isolation ``schema``.
    """

    picture: TableModel
    relations: Relations | None
    seeds: Mapping[Qualified, bytes] = field(repr=False)
    extents: Mapping[str, Extent] = field(repr=False)


class TemplateCache:
    """Every template that this process had to do with lately."""

    def __init__(self) -> None:
        self._templates: OrderedDict[tuple[str, str], TemplateProfile] = OrderedDict()
        self._catalogs: dict[tuple[str, bool], Catalogs] = {}
        self._digests: dict[tuple[str, str], Digest | None] = {}

    def of(self, server: Server, origin: CopySource) -> TemplateProfile:
        """What is known of a template.

        Raises:
            Unprovable: nothing yet.
        """
        key = _key(server, origin)
        if key not in self._templates:
            raise Unprovable(
                "this process has not seen a fresh copy of the template yet", cause=Cause.UNKNOWN
            )
        self._templates.move_to_end(key)
        return self._templates[key]

    def digest(self, server: Server, origin: CopySource) -> Digest | None:
        """What audits compare with; if there is nothing yet, it is read from the next fresh copy."""
        return self._digests.setdefault(_key(server, origin), None)

    async def learn(
        self, server: Server, session: Session, origin: CopySource, site: Site, login: int
    ) -> None:
        """Read what there is to know of a template from a fresh copy of it, unless it is known."""
        key = _key(server, origin)
        if key not in self._templates:
            await self._learn(key, server, session, site, login)
        if key in self._digests and self._digests[key] is None:
            picture = self._templates[key].picture
            self._digests[key] = await read_digest(session, server.version, picture, schema=site.schema)

    async def _learn(
        self, key: tuple[str, str], server: Server, session: Session, site: Site, login: int
    ) -> None:
        picture = await read_picture(
            session, server.version, schema=site.schema, as_replica=server.may_be_replica
        )
        seeds: dict[Qualified, bytes] = {}
        for name, table in picture.tables.items():
            if table.rows is None or not 0 < table.rows <= SEED_ROWS or table.materialized:
                continue
            rows = await copy_out(session, name, table.columns, site.schema)
            if sum(map(len, seeds.values())) + len(rows) > _MOST_SEED_BYTES:
                break
            seeds[name] = rows
        extents: Mapping[str, Extent] = {}
        relations: Relations | None = None
        if site.schema is None:
            relations = await read_relations(session, schema=None)
            catalogs = await self.catalogs(server, session, schema=False)
            extents = await catalogs.extents(session, site.names(login), ())
        self._templates[key] = TemplateProfile(picture, relations, seeds, extents)
        while len(self._templates) > _MOST_TEMPLATES or self._bytes() > _MOST_SEED_BYTES:
            forgotten, _ = self._templates.popitem(last=False)
            self._digests.pop(forgotten, None)

    async def catalogs(self, server: Server, session: Session, *, schema: bool) -> Catalogs:
        """The system catalogs of a server."""
        key = (server.name, schema)
        if key not in self._catalogs:
            self._catalogs[key] = await Catalogs.of(session, schema=schema)
        return self._catalogs[key]

    def _bytes(self) -> int:
        return sum(len(rows) for one in self._templates.values() for rows in one.seeds.values())


def _key(server: Server, origin: CopySource) -> tuple[str, str]:
    shared = None if origin.blueprint is None else origin.blueprint.shared_database
    return server.name, shared or origin.template_database
