"""Privileges, default privileges, owners."""

from __future__ import annotations

from typing import Final

from tests.hygiene.change import (
    IN_SCHEMA,
    Change,
    change,
    database_owner_only,
    for_versions,
    refused,
    without_leftovers,
)

GRANTED: Final = (
    change("a privilege on a table granted", "GRANT INSERT ON person TO PUBLIC"),
    change("a privilege on a table granted to a role", "GRANT SELECT ON note TO pg_monitor WITH GRANT OPTION"),
    change("a privilege on a column granted", "GRANT UPDATE (body) ON note TO PUBLIC"),
    change("a privilege on a sequence granted", "GRANT USAGE ON SEQUENCE ticket TO PUBLIC"),
    change("a privilege on a function granted", "GRANT EXECUTE ON FUNCTION count_people() TO PUBLIC"),
    change("a privilege on the schema granted", "GRANT CREATE ON SCHEMA @schema@ TO PUBLIC"),
    change("every privilege on everything granted",
           "GRANT ALL ON ALL TABLES IN SCHEMA @schema@ TO PUBLIC",
           "GRANT ALL ON ALL SEQUENCES IN SCHEMA @schema@ TO PUBLIC",
           "GRANT ALL ON ALL ROUTINES IN SCHEMA @schema@ TO PUBLIC"),
    change("a privilege on the database granted", "GRANT CREATE ON DATABASE @database@ TO PUBLIC", unseen=IN_SCHEMA),
    for_versions(18, 99, change("a privilege to maintain a table granted", "GRANT MAINTAIN ON note TO PUBLIC")),
    refused("the login's rights granted to another role", "GRANT @login@ TO pg_monitor"),
    refused("a membership in another role granted to the login", "GRANT pg_read_all_data TO @login@"),
    refused("a privilege on a setting granted", "GRANT SET ON PARAMETER log_statement TO PUBLIC"),
)  # fmt: skip

REVOKED: Final = (
    change("a privilege on a table revoked", "REVOKE SELECT ON person FROM PUBLIC"),
    change("the owner's own privileges on a table revoked", "REVOKE ALL ON note FROM @login@"),
    change("a privilege on a column revoked", "REVOKE SELECT (id) ON product FROM PUBLIC"),
    change("a privilege on a sequence revoked", "REVOKE ALL ON SEQUENCE ticket FROM @login@"),
    change("a privilege on a function revoked", "REVOKE EXECUTE ON FUNCTION is_positive(bigint) FROM PUBLIC"),
    change("a privilege on a type revoked", "REVOKE USAGE ON TYPE mood FROM PUBLIC"),
    change("a privilege on a domain revoked", "REVOKE USAGE ON DOMAIN email FROM PUBLIC"),
    change("privileges on the schema revoked", "REVOKE ALL ON SCHEMA @schema@ FROM PUBLIC, @login@"),
    change("the owner's own right to connect revoked",
           "REVOKE ALL ON DATABASE @database@ FROM @login@", unseen=IN_SCHEMA),
    without_leftovers("a privilege granted and revoked",
           "GRANT INSERT ON person TO PUBLIC", "REVOKE INSERT ON person FROM PUBLIC"),
)  # fmt: skip

BY_DEFAULT: Final = (
    change("a default privilege granted", "ALTER DEFAULT PRIVILEGES GRANT INSERT ON TABLES TO PUBLIC"),
    change("a default privilege revoked", "ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM PUBLIC"),
    change("a built-in default privilege granted again", "ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC"),
    change("a default privilege in the schema granted",
           "ALTER DEFAULT PRIVILEGES IN SCHEMA @schema@ GRANT SELECT ON SEQUENCES TO pg_monitor"),
    change("a default privilege on types revoked", "ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC"),
    change("a default privilege on schemas granted", "ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO PUBLIC"),
    refused("another role's default privilege granted",
           "ALTER DEFAULT PRIVILEGES FOR ROLE pg_monitor GRANT SELECT ON TABLES TO PUBLIC"),
)  # fmt: skip

OWNERS: Final = (
    without_leftovers("everything reassigned to its owner", "REASSIGN OWNED BY @login@ TO @login@"),
    change("everything owned dropped", "DROP OWNED BY @login@ CASCADE"),
    refused("the schema's owner changed", "ALTER SCHEMA @schema@ OWNER TO pg_monitor"),
    refused("the database's owner changed", "ALTER DATABASE @database@ OWNER TO pg_monitor"),
    database_owner_only("everything in the schema dropped, and a privilege on the database granted to a role",
                  "DROP OWNED BY @login@ CASCADE", "GRANT TEMPORARY ON DATABASE @database@ TO pg_monitor",
                  "ALTER DATABASE @database@ SET work_mem = '1MB'"),
)  # fmt: skip

PRIVILEGES: Final[tuple[Change, ...]] = (*GRANTED, *REVOKED, *BY_DEFAULT, *OWNERS)
