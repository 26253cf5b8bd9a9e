"""The other commands: results on standard output, the rest on standard error, and ``--json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psycopg
import pytest

from freshdb import Client, Template
from freshdb_service.embedded.binaries import newest_postgres_binaries
from tests.cli.conftest import COUNT_ITEMS, SCHEMA, Freshdb, unique
from tests.limits import LIMIT_SECONDS
from tests.unit.client.scripted import LEASE, Reply, lease_body, methods, scripted_service

FILL = (
    "import os, psycopg, pathlib; c = psycopg.connect(os.environ['DATABASE_URL'], autocommit=True);"
    " [c.execute(p.read_text()) for p in sorted(pathlib.Path('migrations').iterdir())]; c.close(); print('filled')"
)


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    directory = tmp_path / "migrations"
    directory.mkdir()
    (directory / "001.sql").write_text(SCHEMA)
    return directory


def test_acquire_prints_the_url_alone_and_release_ends_the_lease(
    freshdb_command: Freshdb, shop: Template, client: Client
) -> None:
    mark = unique("mark")
    done = freshdb_command("acquire", shop.name, "--holder", f"mark={mark}", "--label", "a=b=c")
    url = done.stdout.strip()
    with psycopg.connect(url) as connection:
        assert connection.execute("select count(*) from item").fetchone() == (1,)
    [lease] = client.leases(holder={"mark": mark})
    assert lease.labels == {"a": "b=c"}
    assert f"freshdb release {lease.id}" in done.stderr
    renewed = freshdb_command("renew", lease.id, "--ttl", "777", "--json")
    assert json.loads(renewed.stdout)["ttl_seconds"] == 777
    released = freshdb_command("release", lease.id)
    assert (released.returncode, released.stdout) == (0, "")
    assert client.get_lease(lease.id).state == "released"


def test_json_has_the_members_of_the_rest_interface(freshdb_command: Freshdb, shop: Template) -> None:
    acquired = json.loads(freshdb_command("acquire", shop.name, "--json").stdout)
    assert acquired["url"].startswith("postgresql://")
    assert acquired["password"] in acquired["url"]
    assert (acquired["state"], acquired["template"]) == ("active", shop.reference)
    [listed] = [
        one for one in json.loads(freshdb_command("leases", "--json").stdout) if one["id"] == acquired["id"]
    ]
    assert "password" not in listed
    assert "url" not in listed
    kept = json.loads(
        freshdb_command("keep", acquired["id"], "--ttl", "60", "--reason", "look", "--json").stdout
    )
    assert kept["state"] == "kept"
    [released] = json.loads(freshdb_command("release", acquired["id"], "--json").stdout)
    assert released["state"] == "released"


def test_release_tries_all_leases_and_fails_if_one_failed(
    freshdb_command: Freshdb, shop: Template, client: Client
) -> None:
    lease = client.acquire(shop.name)
    done = freshdb_command("release", "no-such-lease", lease.id)
    assert done.returncode == 1
    assert "no-such-lease" in done.stderr
    assert client.get_lease(lease.id).state == "released"


def test_release_with_force_revokes(freshdb_command: Freshdb, shop: Template, client: Client) -> None:
    lease = client.acquire(shop.name)
    assert freshdb_command("release", "--force", lease.id).returncode == 0
    assert client.get_lease(lease.id).state == "revoked"


def test_reset_prints_the_new_url_alone(tmp_path: Path) -> None:
    with scripted_service() as script:
        script.play(Reply(200, lease_body(user="u_2")))
        command = Freshdb(tmp_path, {"FRESHDB_URL": script.url})
        done = command("reset", LEASE)
        as_json = json.loads(command("reset", LEASE, "--json").stdout)
    assert methods(script.asked) == [f"POST /v1/leases/{LEASE}/reset"] * 2
    assert done.returncode == 0
    assert done.stdout.startswith("postgresql://u_2:")
    assert len(done.stdout.splitlines()) == 1
    assert as_json["url"] == done.stdout.strip()


def test_release_prints_leftovers(tmp_path: Path) -> None:
    left = {"connections": 2, "advisory_locks": 1, "objects": ["table mine", "type mood"]}
    with scripted_service() as script:
        script.play(Reply(200, lease_body(state="released", password=None, leftovers=left)))
        command = Freshdb(tmp_path, {"FRESHDB_URL": script.url})
        done = command("release", LEASE)
        [as_json] = json.loads(command("release", LEASE, "--json").stdout)
    assert done.stderr == (
        f"released {LEASE} (left open: connections: 2, advisory locks: 1) (left defined: table mine, type mood)\n"
    )
    assert as_json["leftovers"] == {**left, "prepared_transactions": 0}


def test_lists_are_tables_on_standard_output(
    freshdb_command: Freshdb, shop: Template, client: Client
) -> None:
    with client.lease(shop.name, holder={"name": "tester"}) as lease:
        leases, templates, pools = (freshdb_command(verb).stdout for verb in ("leases", "templates", "pools"))
    assert lease.id in leases
    assert "name=tester" in leases
    assert leases.splitlines()[0].split()[:2] == ["ID", "STATE"]
    assert shop.name in templates
    assert shop.name in pools
    assert "leased=" in pools


def test_empty_list_is_reported_on_standard_error(freshdb_command: Freshdb) -> None:
    done = freshdb_command("leases", "--template", "nothing-of-this-name")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no leases\n")
    assert json.loads(freshdb_command("leases", "--template", "nothing-of-this-name", "--json").stdout) == []


def test_template_is_built_once_by_a_command(
    freshdb_command: Freshdb, migrations: Path, client: Client
) -> None:
    name = unique("cmd")
    words = ["template", "build", name, "--inputs", "migrations/**", "--", sys.executable, "-c", FILL]
    first = freshdb_command(*words)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == client.template(name).reference
    assert "filled" in first.stderr
    again = freshdb_command(*words)
    assert again.stdout == first.stdout
    assert "filled" not in again.stderr
    done = freshdb_command("run", "--template", name, "--", sys.executable, "-c", COUNT_ITEMS)
    assert done.stdout == "1\n"
    (migrations / "002.sql").write_text("insert into item values (2, 'two')")
    other = freshdb_command(*words)
    assert other.stdout != first.stdout
    assert "filled" in other.stderr


def test_failed_build_is_reported_with_its_output(
    freshdb_command: Freshdb, migrations: Path, client: Client
) -> None:
    (migrations / "002.sql").write_text("create tabel x ()")
    name = unique("bad")
    done = freshdb_command(
        "template", "build", name, "--inputs", "migrations/**", "--", sys.executable, "-c", FILL
    )
    assert done.returncode == 1
    assert "exit code 1" in done.stderr
    failed = client.template(name)
    assert failed.state == "failed"
    assert failed.error is not None
    assert 'syntax error at or near "tabel"' in failed.error.message


def test_template_is_built_from_sql_files(freshdb_command: Freshdb, tmp_path: Path, client: Client) -> None:
    (tmp_path / "schema.sql").write_text(SCHEMA)
    (tmp_path / "seed.sql").write_text("insert into item values (2, 'two')")
    name = unique("files")
    done = freshdb_command("template", "sql", name, "schema.sql", "seed.sql", "--json")
    assert json.loads(done.stdout)["state"] == "ready"
    run = freshdb_command("run", "--template", name, "--", sys.executable, "-c", COUNT_ITEMS)
    assert run.stdout == "2\n"
    assert freshdb_command("template", "retire", name).returncode == 0
    # The service deletes a retired template after its last database was dropped.
    assert {one.state for one in client.templates(name=name)} <= {"retired"}


def test_failed_sql_names_the_file_and_the_line(freshdb_command: Freshdb, tmp_path: Path) -> None:
    (tmp_path / "good.sql").write_text(SCHEMA)
    (tmp_path / "bad.sql").write_text("select 1;\n\ncreate tabel b ();\n")
    done = freshdb_command("template", "sql", unique("bad"), "good.sql", "bad.sql")
    assert done.returncode == 1
    assert 'syntax error at or near "tabel"' in done.stderr
    assert "bad.sql, line 3" in done.stderr
    assert "create tabel b" in done.stderr


def test_doubtful_build_is_warned_about_and_its_log_printed(freshdb_command: Freshdb, tmp_path: Path) -> None:
    (tmp_path / "schema.sql").write_text("create tabel b ();\n")
    name = unique("doubtful")
    command = [str(newest_postgres_binaries() / "psql"), "-f", "schema.sql"]  # without ON_ERROR_STOP
    done = freshdb_command("template", "build", name, "--inputs", "schema.sql", "--", *command)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert "schema.sql:1: ERROR:  syntax error" in warnings[0]
    assert "created no table" in warnings[1]
    log = freshdb_command("template", "log", name)
    assert log.stdout.startswith("psql:schema.sql:1: ERROR:  syntax error")
    assert log.stderr.splitlines() == warnings
    assert len(json.loads(freshdb_command("template", "log", name, "--json").stdout)["warnings"]) == 2
    [line] = [one for one in freshdb_command("templates").stdout.splitlines() if one.startswith(name)]
    assert "created no table" in line


def test_long_log_of_a_build_has_its_beginning_its_end_and_its_errors(
    freshdb_command: Freshdb, tmp_path: Path
) -> None:
    (tmp_path / "fill.py").write_text(
        "print('begins')\nfor n in range(60000):\n    print('ERROR: in the middle' if n == 30000 else f'line {n}')\n"
        "print('ends')\n"
    )
    name = unique("long")
    done = freshdb_command("template", "build", name, "--inputs", "fill.py", "--", sys.executable, "fill.py")
    assert "ERROR: in the middle" in done.stderr.splitlines()[-3]
    log = freshdb_command("template", "log", name).stdout
    assert len(log) < 400_000
    assert log.startswith("begins\nline 0\n")
    assert log.endswith("line 59999\nends\n")
    assert "lines were left out here]\nERROR: in the middle\n" in log


def test_template_of_the_project_is_built_when_needed(
    freshdb_command: Freshdb, migrations: Path, tmp_path: Path
) -> None:
    name = unique("project")
    (tmp_path / "fill.py").write_text(FILL)
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.freshdb]\ntemplate = "{name}"\ninputs = ["migrations/**"]\n'
        f'build = ["{sys.executable}", "fill.py"]\nisolation = "schema"\n'
    )
    done = freshdb_command("run", "--", sys.executable, "-c", COUNT_ITEMS)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert f"building template {name}@" in done.stderr
    (migrations / "002.sql").write_text("insert into item values (2, 'two')")
    inner = Freshdb(migrations, freshdb_command.environment)
    done = inner("run", "--", sys.executable, "-c", COUNT_ITEMS)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    listed = json.loads(inner("leases", "--state", "released", "--template", name, "--json").stdout)
    assert {one["isolation"] for one in listed} == {"schema"}


def test_wrong_project_is_a_usage_error_that_names_the_key(freshdb_command: Freshdb, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.freshdb]\ntemplat = "x"\n')
    done = freshdb_command("run", "--", "true")
    assert done.returncode == 2
    assert "[tool.freshdb] templat is not a key" in done.stderr


def test_status_shows_the_address_and_the_checks(freshdb_command: Freshdb, client: Client) -> None:
    done = freshdb_command("status")
    assert done.returncode == 0
    assert client.url in done.stdout
    assert json.loads(freshdb_command("status", "--json").stdout)["checks"]["redis"] == "ok"


def test_invalid_address_is_named(tmp_path: Path) -> None:
    done = Freshdb(tmp_path, {"FRESHDB_URL": "http://127.0.0.1:9"})("templates", "--url", "nonsense")
    assert done.returncode == 1
    assert "'nonsense' is not the address of a freshdb service" in done.stderr


def test_closed_output_is_not_an_error(freshdb_command: Freshdb, shop: Template) -> None:
    del shop
    process = freshdb_command.start("templates")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(LIMIT_SECONDS)


def test_help_and_version_work_for_every_command(tmp_path: Path) -> None:
    command = Freshdb(tmp_path)
    assert command("--version").stdout.startswith("freshdb 0.")
    for words in (["--help"], ["run", "--help"], ["template", "--help"], ["template", "build", "--help"]):
        done = command(*words)
        assert done.returncode == 0
        assert "usage: freshdb" in done.stdout
