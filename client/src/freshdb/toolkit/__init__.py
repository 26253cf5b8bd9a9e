"""What people do with a clean database inside their tests: small modules that do not know each other.

None of them needs freshdb's service: they take an engine, a connection or a DSN. Install ``freshdb[toolkit]``, and a driver:
asyncpg, psycopg, or aiosqlite.

=============  =========================================================================================
``tables``     the map of a database's tables: what refers to what, and in which order rows go in and out
``factories``  valid rows on demand, with what they refer to
``guard``      a process that can connect to nothing but its leases; needs no other package
=============  =========================================================================================
"""
