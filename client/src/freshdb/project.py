"""``[tool.freshdb]`` in ``pyproject.toml``: the template of a project and its build.

::

    [tool.freshdb]
    template = "shop"                       # the template's name
    inputs = ["migrations/**", "seed.sql"]  # the files it is built from: globs relative to this file
    build = "alembic upgrade head"          # run with DATABASE_URL and PG*. A list is run without a shell
    extensions = ["vector"]                 # installed by the service. Or {name = "…", schema = "…", version = "…"}
    isolation = "database"                  # or "schema"
    url = "http://freshdb.internal:8777"    # a shared service instead of an embedded one
    prefetch = 1                            # leases that the pytest plugin acquires in advance
    guard = "on"                            # in pytest, guard against connections outside leases: "on", "report" or "off"
    guard_allow = ["sqlite:////srv/*.db"]   # exceptions of the guard

With ``sql = ["schema.sql", "seed.sql"]`` instead of ``build``, the service runs these files itself. With neither, the
template must be registered elsewhere. The fingerprint covers the inputs, the SQL, the command and the extensions, so
that a template is built again exactly when one of them changes.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from freshdb import fingerprints
from freshdb.build_errors import describe_place
from freshdb.errors import ProjectInvalid, TemplateFailed, TemplateNotFound
from freshdb.extensions import listed_extensions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import IO

    from freshdb.client import Client
    from freshdb.extensions import AnyExtension, Extension
    from freshdb.models import BuildGrant, Isolation, Template

_KEYS: Final = (
    "template",
    "inputs",
    "build",
    "sql",
    "extensions",
    "isolation",
    "url",
    "prefetch",
    "guard",
    "guard_allow",
)
_SHOWN_CHARACTERS: Final = 12


@dataclass(frozen=True, slots=True)
class Project:
    """The ``[tool.freshdb]`` of a project. `root` is the directory of its ``pyproject.toml``."""

    root: Path
    template: str | None = None
    inputs: tuple[str, ...] = ()
    build: str | tuple[str, ...] | None = None
    sql: tuple[str, ...] = ()
    extensions: tuple[AnyExtension, ...] = ()
    isolation: Isolation | None = None
    url: str | None = None
    prefetch: int | None = None
    guard: str | None = None
    guard_allow: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return the hash of everything that the template is built from.

        Raises:
            ProjectInvalid: a glob matches no file, or a file is missing.
        """
        if self.sql:
            return fingerprints.of_sql(self.scripts(), self.extensions)
        files = [path for pattern in self.inputs for path in self._matches(pattern)]
        try:
            return fingerprints.of_inputs(
                self.root, files, command=self.build or "", extensions=self.extensions
            )
        except OSError as error:
            raise self._invalid("inputs", f"cannot be read: {error}") from None

    def scripts(self) -> list[str]:
        """Read the SQL files.

        Raises:
            ProjectInvalid: a file cannot be read.
        """
        return [self._read(name) for name in self.sql]

    def ensure_template(
        self,
        client: Client,
        *,
        progress: Callable[[str], None] | None = None,
        warn: Callable[[str], None] | None = None,
        output: IO[str] | None = None,
    ) -> str:
        """Build the template if needed, and return ``name@fingerprint`` once it is ready.

        Args:
            client: client of the service that must have the template.
            progress: called with a message when a build begins.
            warn: called with each warning about the template's build, also if it was built before.
            output: stream for the output of the build command.

        Raises:
            ProjectInvalid: no template is named, or a file is missing.
            BuildCommandFailed: the build command failed.
            TemplateFailed: the SQL failed, or the build of another client.
            TemplateNotFound: the project does not define a build, and the template does not exist.
        """
        if self.template is None:
            raise self._invalid(
                "template", "is missing: name the template that clean databases are cloned from"
            )
        template = self._ready(client, self.template, progress, output)
        for line in template.warning_lines:
            if warn is not None:
                warn(line)
        return template.reference

    def _ready(
        self, client: Client, name: str, progress: Callable[[str], None] | None, output: IO[str] | None
    ) -> Template:
        if not self.sql and self.build is None:
            return client.wait_template(name)
        fingerprint = self.fingerprint()
        with suppress(TemplateNotFound):
            template = client.template(f"{name}@{fingerprint}")
            if template.state == "ready":
                return template
        if progress is not None:
            progress(f"building template {name}@{fingerprint[:_SHOWN_CHARACTERS]}…")
        return self._build(client, name, fingerprint, output)

    def _build(self, client: Client, name: str, fingerprint: str, output: IO[str] | None) -> Template:
        command = self.build
        if command is None:
            try:
                return client.ensure_sql(
                    name, self.scripts(), fingerprint=fingerprint, extensions=self.extensions
                )
            except TemplateFailed as error:
                place = describe_place(error.extra, self.sql)
                if place is None:
                    raise
                message = f"{error}\n  {place}"
                raise TemplateFailed(message, status=error.status, extra=error.extra) from None

        def builder(grant: BuildGrant) -> str:
            from freshdb.build_command import run_build_command  # noqa: PLC0415 - most runs build nothing

            return run_build_command(command, grant, directory=self.root, output=output)

        return client.build(name, fingerprint, builder, extensions=self.extensions)

    def _matches(self, pattern: str) -> list[Path]:
        found = fingerprints.matching_files(self.root, pattern)
        if not found:
            raise self._invalid("inputs", f"{pattern!r} matches no file below {self.root}")
        return found

    def _read(self, name: str) -> str:
        try:
            return (self.root / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise self._invalid("sql", f"{name!r} cannot be read: {error}") from None

    def _invalid(self, key: str, problem: str) -> ProjectInvalid:
        return ProjectInvalid(f"{self.root / 'pyproject.toml'}: [tool.freshdb] {key}: {problem}")


def load_project(start: Path) -> Project | None:
    """Read the nearest ``pyproject.toml`` at or above `start` that has ``[tool.freshdb]``.

    Raises:
        ProjectInvalid: it has an unknown key, or a value of the wrong type.
    """
    import tomllib  # noqa: PLC0415 - importing this module stays cheap

    resolved = start.resolve()
    for directory in (resolved, *resolved.parents):
        path = directory / "pyproject.toml"
        try:
            content = path.read_text(encoding="utf-8")
        except OSError:
            continue
        if "freshdb" not in content:
            continue
        try:
            document = tomllib.loads(content)
        except tomllib.TOMLDecodeError as error:
            message = f"{path} is not valid TOML: {error}"
            raise ProjectInvalid(message) from None
        tool = document.get("tool")
        if isinstance(tool, dict) and "freshdb" in tool:
            return _Reader(path, tool["freshdb"]).read()
    return None


class _Reader:
    """Checks the keys and types of the table."""

    def __init__(self, path: Path, table: object) -> None:
        self._path = path
        if not isinstance(table, dict):
            message = f"{path}: tool.freshdb must be a table: [tool.freshdb]"
            raise ProjectInvalid(message)
        self._table: Mapping[str, object] = table

    def read(self) -> Project:
        for key in self._table:
            if key not in _KEYS:
                raise self._wrong(key, f"is not a key of freshdb: use one of {', '.join(_KEYS)}")
        build = self._command("build")
        inputs, sql = self._texts("inputs"), self._texts("sql")
        if build is not None and sql:
            raise self._wrong("build", "and sql exclude each other: keep the one that builds the template")
        if build is not None and not inputs:
            raise self._wrong(
                "inputs",
                'is missing: name the files that build reads, as in inputs = ["migrations/**"], '
                "so that the template is built again when they change",
            )
        return Project(
            root=self._path.parent,
            template=self._text("template"),
            inputs=inputs,
            build=build,
            sql=sql,
            extensions=self._extensions("extensions"),
            isolation=self._isolation(),
            url=self._text("url"),
            prefetch=self._count("prefetch"),
            guard=self._text("guard"),
            guard_allow=self._texts("guard_allow"),
        )

    def _text(self, key: str) -> str | None:
        value = self._table.get(key)
        if value is None or (isinstance(value, str) and value):
            return value
        raise self._wrong(key, f'must be a string, as in {key} = "…"')

    def _texts(self, key: str) -> tuple[str, ...]:
        value = self._table.get(key, [])
        if isinstance(value, list) and all(isinstance(one, str) and one for one in value):
            return tuple(value)
        raise self._wrong(key, f'must be a list of strings, as in {key} = ["…"]')

    def _extensions(self, key: str) -> tuple[str | Extension, ...]:
        value = self._table.get(key, [])
        if not isinstance(value, list) or not all(
            isinstance(one, dict) or (isinstance(one, str) and one) for one in value
        ):
            raise self._wrong(
                key,
                f'must be a list of names or tables, as in {key} = ["vector", {{name = "…", schema = "…"}}]',
            )
        try:
            return tuple(one if isinstance(one.form, dict) else one.name for one in listed_extensions(value))
        except ValueError as error:
            raise self._wrong(key, f"is wrong: {error}") from None

    def _command(self, key: str) -> str | tuple[str, ...] | None:
        value = self._table.get(key)
        if value is None or (isinstance(value, str) and value.strip()):
            return value
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return tuple(value)
        raise self._wrong(
            key, f'must be a command: a string for the shell, or a list of words, as in {key} = ["…"]'
        )

    def _isolation(self) -> Isolation | None:
        value = self._table.get("isolation")
        if value is None or value == "database" or value == "schema":  # noqa: PLR1714 - this narrows the type
            return value
        raise self._wrong("isolation", f'must be "database" or "schema", not {value!r}')

    def _count(self, key: str) -> int | None:
        value = self._table.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return value
        raise self._wrong(key, f"must be a whole number, 0 or more, not {value!r}")

    def _wrong(self, key: str, problem: str) -> ProjectInvalid:
        return ProjectInvalid(f"{self._path}: [tool.freshdb] {key} {problem}")
