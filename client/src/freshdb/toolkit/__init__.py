"""Tools for tests that use a database: small modules that do not need freshdb's service.

They work on an engine, a connection or a DSN. Install ``freshdb[toolkit]`` and a driver: asyncpg, psycopg or aiosqlite.

=============  ===================================================================================================
``tables``     the tables of a database, their foreign keys, and the order to insert and delete rows
``sessions``   SQLAlchemy sessions in a transaction that is always rolled back
``cleanup``    the service's reset engine for your own database
``data``       test data: insert it by readable references, delete it, compare it
``factories``  valid rows on demand, with the rows that they refer to
``guard``      connections only to the leases of this process (needs no other package)
``fixtures``   pytest fixtures for cleanup and sessions
=============  ===================================================================================================
"""
