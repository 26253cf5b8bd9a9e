"""``[tool.freshdb]``: its keys, the errors in it, and the fingerprint of its template."""

from __future__ import annotations

from pathlib import Path

import pytest

from freshdb import Client, Project, ProjectInvalid, load_project
from freshdb.errors import BuildCommandFailed
from tests.unit.client.scripted import (
    PASSWORD,
    Reply,
    Script,
    build_body,
    methods,
    problem,
    template_body,
)

WHOLE = """
[tool.freshdb]
template = "shop"
inputs = ["migrations/**", "seed.sql"]
build = "alembic upgrade head"
extensions = ["vector"]
isolation = "schema"
url = "http://db:8777"
prefetch = 2
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    (tmp_path / "migrations" / "env.py").write_text("env")
    (tmp_path / "migrations" / "versions" / "1.py").write_text("one")
    (tmp_path / "seed.sql").write_text("seed")
    (tmp_path / "pyproject.toml").write_text(WHOLE)
    return tmp_path


def _load(root: Path, text: str) -> Project:
    (root / "pyproject.toml").write_text(text)
    found = load_project(root)
    assert found is not None
    return found


def test_every_key_is_read(root: Path) -> None:
    assert load_project(root) == Project(
        root=root,
        template="shop",
        inputs=("migrations/**", "seed.sql"),
        build="alembic upgrade head",
        extensions=("vector",),
        isolation="schema",
        url="http://db:8777",
        prefetch=2,
    )


def test_table_is_found_above_a_file_without_one(root: Path) -> None:
    inner = root / "package" / "sub"
    inner.mkdir(parents=True)
    (root / "package" / "pyproject.toml").write_text("[tool.other]\nfreshdb = 1\n")
    found = load_project(inner)
    assert found is not None
    assert found.root == root


def test_project_without_a_table_is_none(tmp_path: Path) -> None:
    assert load_project(tmp_path) is None


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('templat = "x"', "templat is not a key of freshdb: use one of template, inputs"),
        ("template = 1", 'template must be a string, as in template = "…"'),
        ('template = ""', "template must be a string"),
        ('inputs = "migrations"', 'inputs must be a list of strings, as in inputs = ["…"]'),
        ("sql = [1]", "sql must be a list of strings"),
        ('inputs = ["a"]\nbuild = 1', "build must be a command"),
        ('inputs = ["a"]\nbuild = []', "build must be a command"),
        ('build = "make"', "inputs is missing: name the files that build reads"),
        ('inputs = ["a"]\nbuild = "make"\nsql = ["a.sql"]', "build and sql exclude each other"),
        ("prefetch = -1", "prefetch must be a whole number, 0 or more, not -1"),
        ("prefetch = true", "prefetch must be a whole number"),
        ('prefetch = "1"', "prefetch must be a whole number"),
        ('isolation = "table"', 'isolation must be "database" or "schema", not \'table\''),
        ("isolation = ['schema']", "isolation must be"),
        ('extensions = "vector"', "extensions must be a list of names or tables"),
        ("extensions = [17]", "extensions must be a list of names or tables"),
        (
            'extensions = [{name = "pgcrypto", schemas = "x"}]',
            "extensions is wrong: an extension has no 'schemas'",
        ),
        ('extensions = [{schema = "x"}]', "extensions is wrong: an extension needs a name"),
        ('extensions = [{name = "pgcrypto", version = 1.3}]', "version of an extension must be a string"),
    ],
)
def test_wrong_key_or_value_is_named_with_the_fix(root: Path, table: str, says: str) -> None:
    with pytest.raises(ProjectInvalid) as caught:
        _load(root, f"[tool.freshdb]\n{table}\n")
    assert says in str(caught.value)
    assert str(root / "pyproject.toml") in str(caught.value)


@pytest.mark.parametrize("text", ["[tool.freshdb\n", "[tool]\nfreshdb = 1\n"])
def test_broken_file_is_named(root: Path, text: str) -> None:
    with pytest.raises(ProjectInvalid, match=r"pyproject\.toml"):
        _load(root, text)


def test_fingerprint_depends_on_content_names_command_and_extensions(root: Path) -> None:
    found = {_load(root, WHOLE).fingerprint()}
    found.add(_load(root, WHOLE.replace("alembic", "flask db")).fingerprint())
    found.add(_load(root, WHOLE.replace('"vector"', '"vector", "citext"')).fingerprint())
    project = _load(root, WHOLE)
    (root / "migrations" / "versions" / "1.py").write_text("other")
    found.add(project.fingerprint())
    (root / "migrations" / "versions" / "1.py").rename(root / "migrations" / "versions" / "2.py")
    found.add(project.fingerprint())
    (root / "migrations" / "versions" / "3.py").write_text("")
    found.add(project.fingerprint())
    assert len(found) == 6


def test_fingerprint_does_not_depend_on_place_caches_and_other_files(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = _load(root, WHOLE).fingerprint()
    (root / "migrations" / "__pycache__").mkdir()
    (root / "migrations" / "__pycache__" / "env.pyc").write_bytes(b"x")
    (root / "other.txt").write_text("x")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    root.rename(elsewhere)
    swapped = WHOLE.replace('["migrations/**", "seed.sql"]', '["seed.sql", "migrations"]').replace(
        "schema", "database"
    )
    assert _load(elsewhere, swapped).fingerprint() == first


def test_fingerprint_depends_on_the_order_of_sql_files(root: Path) -> None:
    (root / "a.sql").write_text("a")
    (root / "b.sql").write_text("b")
    one = _load(root, '[tool.freshdb]\nsql = ["a.sql", "b.sql"]')
    other = _load(root, '[tool.freshdb]\nsql = ["b.sql", "a.sql"]')
    assert one.fingerprint() != other.fingerprint()


def test_inputs_outside_the_project_are_allowed(root: Path) -> None:
    (root / "package").mkdir()
    project = _load(root / "package", '[tool.freshdb]\ninputs = ["../seed.sql"]\nbuild = "x"\n')
    before = project.fingerprint()
    (root / "seed.sql").write_text("other")
    assert project.fingerprint() != before


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('inputs = ["migratoins/**"]\nbuild = "x"', "inputs: 'migratoins/**' matches no file below"),
        ('sql = ["missing.sql"]', "sql: 'missing.sql' cannot be read"),
    ],
)
def test_missing_files_are_named(root: Path, table: str, says: str) -> None:
    with pytest.raises(ProjectInvalid) as caught:
        _load(root, f'[tool.freshdb]\ntemplate = "x"\n{table}\n').fingerprint()
    assert says in str(caught.value)


def test_ready_template_takes_one_request(root: Path, client: Client, script: Script) -> None:
    project = _load(root, WHOLE)
    warnings = ["the build created no table"]
    script.play(
        Reply(200, {**template_body("ready"), "fingerprint": project.fingerprint(), "warnings": warnings})
    )
    told: list[str] = []
    warned: list[str] = []
    assert project.ensure_template(client, progress=told.append, warn=warned.append) == (
        f"shop@{project.fingerprint()}"
    )
    assert warned == ["template shop: the build created no table; see: freshdb template log shop"]
    assert methods(script.asked) == [f"GET /v1/templates/shop@{project.fingerprint()}"]
    assert told == []


def test_missing_template_is_built_in_the_projects_directory_with_the_databases_environment(
    root: Path, client: Client, script: Script
) -> None:
    project = _load(
        root, WHOLE.replace('"alembic upgrade head"', """'echo "$PWD $PGUSER $DATABASE_URL" > built'""")
    )
    script.play(
        problem(404, "template_not_found"),
        Reply(201, template_body("building", build=build_body())),
        Reply(200, template_body("ready")),
    )
    told: list[str] = []
    project.ensure_template(client, progress=told.append)
    directory, user, url = (root / "built").read_text().split()
    assert (Path(directory), user) == (root, "b")
    assert url.startswith("postgresql://b:")
    assert told[0].startswith("building template shop@")


def test_failed_build_command_shows_its_last_lines_without_password(
    root: Path, client: Client, script: Script
) -> None:
    project = _load(
        root, WHOLE.replace('"alembic upgrade head"', """'echo "using $PGPASSWORD"; echo oops >&2; exit 3'""")
    )
    script.play(
        problem(404, "template_not_found"),
        Reply(201, template_body("building", build=build_body())),
        Reply(200, template_body("failed")),
    )
    with pytest.raises(BuildCommandFailed, match="exit code 3") as caught:
        project.ensure_template(client)
    assert caught.value.returncode == 3
    assert caught.value.output_tail == "using ***\noops"
    assert PASSWORD not in str(script.asked[2].body)


def test_build_command_that_may_not_create_an_extension_gets_a_hint(
    root: Path, client: Client, script: Script
) -> None:
    denied = """'echo "ERROR: permission denied to create extension \\"rum\\"" >&2; exit 3'"""
    project = _load(root, WHOLE.replace('"alembic upgrade head"', denied))
    script.play(
        problem(404, "template_not_found"),
        Reply(201, template_body("building", build=build_body())),
        Reply(200, template_body("failed")),
    )
    with pytest.raises(BuildCommandFailed, match="hint: name the extension in extensions"):
        project.ensure_template(client)


def test_missing_build_command_is_named(root: Path, client: Client, script: Script) -> None:
    project = _load(root, WHOLE.replace('"alembic upgrade head"', '["no-such-program"]'))
    script.play(
        problem(404, "template_not_found"),
        Reply(201, template_body("building", build=build_body())),
        Reply(200, template_body("failed")),
    )
    with pytest.raises(BuildCommandFailed, match="no-such-program: No such file"):
        project.ensure_template(client)


def test_project_without_a_build_uses_an_existing_template(
    root: Path, client: Client, script: Script
) -> None:
    script.play(Reply(200, template_body("ready")))
    assert _load(root, '[tool.freshdb]\ntemplate = "shop"').ensure_template(client) == "shop@abc"


def test_project_without_a_template_raises(root: Path, client: Client) -> None:
    with pytest.raises(ProjectInvalid, match="template: is missing"):
        _load(root, '[tool.freshdb]\nisolation = "schema"').ensure_template(client)
