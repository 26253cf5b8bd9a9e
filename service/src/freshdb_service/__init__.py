"""freshdb's service: pools of clean PostgreSQL databases, leased over HTTP.

Read these eight first:

- ``lifecycle``: the states of databases, leases and templates, and the legal changes.
- ``leasing/acquire``: how a caller gets a lease, at once or through a queue.
- ``store/grant``: the one statement that grants leases.
- ``leasing/leases``: renew, release, keep, reset, and the end of a lease.
- ``postgres/fencing/fence``: how every holder is kept out of a database before its reset.
- ``postgres/reset/engine``: how a used database is reset, or dropped and created again.
- ``maintenance``: the loops that repair what a dead process left.
- ``replica``: every loop and listener, and how they start and stop.
"""

__version__ = "0.2.0"
