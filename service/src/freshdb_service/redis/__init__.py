"""Deadlines of leases, the queue of waiters, wake-ups and events, in Redis.

All of it can be lost at any moment. The service may then be slower, but no lease is lost (each gets its full TTL again), and
none is granted twice, because a lease is granted by its row in the control plane.

All keys start with ``freshdb:{<installation>}:``. The braces keep them in one slot of a Redis Cluster. Every instant is by
Redis's clock: the scripts call ``TIME``. ``scripts/`` has one Lua script per operation, with its keys and arguments on top.

``connection`` runs scripts and turns failures into :class:`~freshdb_service.errors.BackendUnavailable`. ``deadlines`` has
the deadlines of leases, ``queue`` the waiters in their order, ``wakeups`` the notifications between replicas, ``events``
the stream of ``GET /v1/events``, and ``shared_work`` the work that one replica does for all.
"""
