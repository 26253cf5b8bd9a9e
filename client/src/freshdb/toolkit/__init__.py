"""What people do with a clean database inside their tests: small modules that need none of freshdb's service.

They take an engine, a connection or a DSN. Install ``freshdb[toolkit]``, and a driver: asyncpg, psycopg, aiosqlite.

=============  ===================================================================================================
``tables``     the map of a database's tables: what refers to what, and in which order rows go in and out
``sessions``   SQLAlchemy sessions inside a transaction that is always rolled back
``cleanup``    the service's reset, in place, on your own database
``data``       test data: set up by readable references, taken away again, compared
``factories``  valid rows on demand, with what they refer to
``guard``      a process that can connect to nothing but its leases; needs no other package
``fixtures``   pytest's fixtures for cleanup and sessions
=============  ===================================================================================================
"""
