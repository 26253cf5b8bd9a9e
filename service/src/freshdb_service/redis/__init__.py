"""Redis says when, and who is next: deadlines, the queue of waiters, wake-ups, events. It owns nothing.

Everything here can be lost at any moment. Losing it may slow the service down; it loses no lease (each gets its full TTL
again) and grants none twice, because a lease is granted by its row in the control plane.

All keys start with ``freshdb:{<installation>}:``; the braces keep them in one slot of a Redis Cluster. Redis's own clock
is the only one used: every script asks ``TIME``. ``scripts/`` holds one Lua script per verb, its keys and arguments on
top.

``connection`` runs scripts and turns failures into :class:`~freshdb_service.errors.BackendUnavailable`; ``deadlines``
knows when leases end; ``queue`` who waits, and in which order; ``signals`` carries wake-ups between replicas; ``events``
keeps the stream that ``GET /v1/events`` reads.
"""
