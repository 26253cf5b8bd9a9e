"""The control plane's tables in PostgreSQL. Only this package and the migrations use SQLAlchemy.

A lease is granted by its row. Every change of a row names the state that it expects, and, for a database, the generation. If
the row has changed in the meantime, the functions return ``None`` or ``False``, and the caller decides. A transition that
:mod:`freshdb_service.lifecycle` does not have is refused by a trigger. Every instant is by PostgreSQL's clock.

``tables`` declares the schema. ``connection`` opens connections and turns their failures into
:class:`~freshdb_service.errors.BackendUnavailable`. The other modules hold the statements, by table.
"""
