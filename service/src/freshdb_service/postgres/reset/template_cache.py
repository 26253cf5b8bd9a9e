"""The profiles of the templates that this process works with. Each is read from the first fresh copy that is created.

No client can enter a template once it is ready, so every clone of it is the same. A database that was created from it and
was not leased yet is as good. The cache need not survive a restart: where a profile is missing, a used database is rebuilt,
and the profile is read from the new one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from freshdb_reset import (
    SEED_BYTES,
    Catalogs,
    Cause,
    Digest,
    KnownState,
    TemplateProfile,
    Unprovable,
    read_digest,
    read_profile,
)
from freshdb_service.postgres.reset.engine import CopySource
from freshdb_service.postgres.server.server import Server
from freshdb_service.postgres.server.session_cache import Session

_MAX_TEMPLATES: Final = 100


class TemplateCache:
    """Profiles and digests of the templates that were used last, and the catalogs of servers."""

    def __init__(self) -> None:
        self._templates: OrderedDict[tuple[str, str], TemplateProfile] = OrderedDict()
        self._catalogs: dict[tuple[str, bool], Catalogs] = {}
        self._digests: dict[tuple[str, str], Digest | None] = {}

    def profile(self, server: Server, origin: CopySource) -> TemplateProfile:
        """Return the profile of a template.

        Raises:
            Unprovable: it was not read yet.
        """
        key = _key(server, origin)
        if key not in self._templates:
            raise Unprovable(
                "this process has not read a fresh copy of the template yet", cause=Cause.UNKNOWN
            )
        self._templates.move_to_end(key)
        return self._templates[key]

    def digest(self, server: Server, origin: CopySource) -> Digest | None:
        """Return the digest that audits compare with. If it is missing, ``learn`` reads it from the next fresh copy."""
        return self._digests.setdefault(_key(server, origin), None)

    async def catalogs(self, server: Server, session: Session, *, schema: bool) -> Catalogs:
        """Return the system catalogs of a server."""
        key = (server.name, schema)
        if key not in self._catalogs:
            self._catalogs[key] = await Catalogs.of(session, schema=schema)
        return self._catalogs[key]

    async def learn(self, server: Server, session: Session, origin: CopySource, known: KnownState) -> None:
        """Read the profile of a template, and the digest if an audit waits for it, from a fresh copy."""
        key, schema = _key(server, origin), known.baseline.site.schema
        if key not in self._templates:
            catalogs = await self.catalogs(server, session, schema=schema is not None)
            self._templates[key] = await read_profile(session, server.rights, known, catalogs)
            self._evict()
        if key in self._digests and self._digests[key] is None:
            model = self._templates[key].model
            self._digests[key] = await read_digest(
                session, server.version, model, schema=schema, positions=True
            )

    def _evict(self) -> None:
        while len(self._templates) > _MAX_TEMPLATES or self._bytes() > SEED_BYTES:
            evicted, _ = self._templates.popitem(last=False)
            self._digests.pop(evicted, None)

    def _bytes(self) -> int:
        return sum(len(rows) for one in self._templates.values() for rows in one.seeds.values())


def _key(server: Server, origin: CopySource) -> tuple[str, str]:
    shared = None if origin.blueprint is None else origin.blueprint.shared_database
    return server.name, shared or origin.template_database
