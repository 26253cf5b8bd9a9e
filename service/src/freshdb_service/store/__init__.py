"""The control plane's tables in PostgreSQL: who holds what. The only place, beside the migrations, that knows SQLAlchemy.

A lease is granted when its row says so. Every change of a row names the state (and, for a database, the generation) that
it expects; the functions return ``None`` or ``False`` when the row was no longer so, and the caller decides what that
means. PostgreSQL's clock is the only one used here.

``tables`` declares the schema; ``session`` opens connections and turns their failures into
:class:`~freshdb_service.errors.BackendUnavailable`; ``leases``, ``databases``, ``pools`` and ``templates`` hold the
statements.
"""
