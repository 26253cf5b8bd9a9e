"""The loops that keep an installation in order.

Each module has one loop, with a ``run_once`` that does one round and returns. :mod:`~freshdb_service.maintenance.loop` runs
them. ``freshdb_service.replica`` lists all loops of a replica, with their intervals.

The **reaper** ends leases whose deadline, which is in Redis, has passed. It ends each due lease in the control plane. Its
database is reset at once, or left to the janitor.

The **janitor** resets dirty databases. A database becomes dirty when its lease ends while all worker slots of the replica
are busy, or when a worker dies.

The **replenisher** gives every pool the right number of databases. It creates them ahead of demand
(:mod:`~freshdb_service.maintenance.pool_sizing` says how many), marks idle ones, drops marked ones, and prepares the shared
databases of schema pools.

The **reconciler** compares the control plane's rows, Redis and the servers' catalogs, and repairs differences. It takes over
the work of dead workers, restores missing deadlines, repeats builds of dead replicas, and drops objects without a row.

No replica leads, and all of them run all loops. A loop claims its work row by row, so two replicas never work on the same
row. Every step can be repeated after a crash. The expensive comparison of all rows with all catalogs is done by one replica
at a time, which needs no lock: if two do it, that is a waste and no error.
"""
