"""The pytest plugin: a clean PostgreSQL database for a test, a class, a module or a session.

Every pytest run loads this module, also runs that never need a database, so it imports only pytest and the standard
library. If a collected test uses one of our fixtures, `freshdb.pytest_plugin.run` is imported. It prepares the
service and the templates once, before the first test runs:

- In a plain run, after collection.
- With pytest-xdist, in the controller, when the first worker that has collected writes the needs of its tests
  (`freshdb.pytest_plugin.xdist_files`).
- Later, if a test requests a fixture that the collection does not show (``request.getfixturevalue``).

A preparation that fails ends the run with one error, because every test that needs a database would fail in the same way.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

import pytest

from freshdb.pytest_plugin.guard import start_guard, take_offences
from freshdb.pytest_plugin.markers import clone_request
from freshdb.pytest_plugin.reporting import ProcessReport, Reporter
from freshdb.pytest_plugin.settings import add_options, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from freshdb.pytest_plugin.database import LeasedDatabase
    from freshdb.pytest_plugin.run import Run
    from freshdb.pytest_plugin.xdist_files import RunFiles

__all__ = ["LeasedDatabase"]

_RUN: Final = pytest.StashKey["Run"]()
_RUN_FILES: Final = pytest.StashKey["RunFiles"]()
_SCOPES: Final[Mapping[str, type[pytest.Item | pytest.Collector]]] = {
    "freshdb": pytest.Item,
    "freshdb_class": pytest.Class,
    "freshdb_module": pytest.Module,
    "freshdb_session": pytest.Session,
}
_MARKER: Final = (
    "freshdb(template=None, isolation=None): template and isolation ('database' or 'schema') of the databases "
    "that the freshdb fixtures provide to this test, class or module"
)
_REPORTER: Final = "freshdb_reporter"
_PROGRESS_SECONDS: Final = 1.0


class _WorkerNode(Protocol):
    """The attributes of xdist's WorkerController that the plugin uses."""

    config: pytest.Config
    workerinput: dict[str, object]


class _WorkerConfig(Protocol):
    """The attribute that xdist adds to a worker's config, and sends to the controller when the worker ends."""

    workeroutput: dict[str, object]


def __getattr__(name: str) -> object:
    if name == "LeasedDatabase":
        from freshdb.pytest_plugin.database import LeasedDatabase  # noqa: PLC0415 - for users' annotations

        return LeasedDatabase
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# The fixtures


@pytest.fixture
def freshdb(request: pytest.FixtureRequest) -> Iterator[LeasedDatabase]:
    """A clean PostgreSQL database for this test alone."""
    yield from _lease(request)


@pytest.fixture(scope="class")
def freshdb_class(request: pytest.FixtureRequest) -> Iterator[LeasedDatabase]:
    """A clean PostgreSQL database that the tests of this class share."""
    yield from _lease(request)


@pytest.fixture(scope="module")
def freshdb_module(request: pytest.FixtureRequest) -> Iterator[LeasedDatabase]:
    """A clean PostgreSQL database that the tests of this module share."""
    yield from _lease(request)


@pytest.fixture(scope="session")
def freshdb_session(request: pytest.FixtureRequest) -> Iterator[LeasedDatabase]:
    """A clean PostgreSQL database that all tests of this session share. With xdist, each worker has its own."""
    yield from _lease(request)


def _lease(request: pytest.FixtureRequest) -> Iterator[LeasedDatabase]:
    try:
        run = _run(request.config)
        clone = clone_request(request.node, run.settings)
    except pytest.UsageError as error:
        pytest.fail(str(error), pytrace=False)
    with run.lease(request, clone) as database:
        yield database


# Before the first test


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Switch the guard on before pytest imports the project's code."""
    start_guard(early_config)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    if _worker(config) is None:
        config.pluginmanager.register(Reporter(config), _REPORTER)


def pytest_report_header(config: pytest.Config) -> str:
    try:
        settings = read_settings(config)
    except pytest.UsageError as error:  # this ends the run only if a test needs a database
        return str(error)
    service = settings.url or _running_service() or "not started yet"
    return f"freshdb: {service}, template {settings.template or 'not set'}"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: _WorkerNode) -> None:
    """In xdist's controller: pass the directory of the run's files to a new worker."""
    from freshdb.pytest_plugin.xdist_files import RunFiles  # noqa: PLC0415 - see the module's docstring

    config = node.config
    if _RUN_FILES not in config.stash:
        directory = Path(tempfile.mkdtemp(prefix="freshdb-run-"))
        config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
        config.stash[_RUN_FILES] = RunFiles(directory)
    node.workerinput["freshdb_run_files"] = str(config.stash[_RUN_FILES].directory)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """In an xdist worker: write its needs, before it reports to the controller that it has collected."""
    worker = _worker(session.config)
    run_files = _run_files(session.config) if worker is not None else None
    if worker is not None and run_files is not None and any(_fixture_uses(session)):
        from freshdb.pytest_plugin.xdist_files import NeededTemplates  # noqa: PLC0415

        try:
            needs = NeededTemplates(_needed_templates(session))
        except pytest.UsageError as error:
            needs = NeededTemplates(error=str(error))
        run_files.write_needs(worker, needs)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: _WorkerNode) -> None:
    """In xdist's controller: prepare the templates that this worker's tests need."""
    config = node.config
    needs = config.stash[_RUN_FILES].read_needs(str(node.workerinput["workerid"]))
    if needs.error is not None:
        raise pytest.UsageError(needs.error)
    _prepare(config, needs.templates)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """In a plain run: prepare the templates that the tests need. After the tests: wait for the background work."""
    config = session.config
    broken = session.testsfailed and not config.option.continue_on_collection_errors
    if _worker(config) is None and not config.option.collectonly and not broken:
        _prepare(config, _needed_templates(session))
    try:
        return (yield)
    finally:
        _drain(config)


# During and after the tests


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    run = item.config.stash.get(_RUN, None)
    if run is not None:
        run.plan_prefetch(item.session, nextitem)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Prefetch for the next tests, now that this test has its own databases."""
    run = item.config.stash.get(_RUN, None)
    if run is not None:
        run.prefetch()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    run = item.config.stash.get(_RUN, None)
    if run is not None:
        run.check_lost(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    yield
    run = item.config.stash.get(_RUN, None)
    if run is not None:
        run.check_lost(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    run = item.config.stash.get(_RUN, None)
    if run is not None and report.failed:
        run.mark_failed(item)
    process_report = _process_report(item.config)
    if process_report is not None:
        report.freshdb = process_report  # type: ignore[attr-defined] # xdist sends it to the controller
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: _WorkerNode) -> None:
    """In xdist's controller: add the last messages of a worker."""
    output: Mapping[str, ProcessReport] = getattr(node, "workeroutput", {})  # empty after a crash
    _add_report(node.config, output.get("freshdb"))


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(_RUN, None)
    if run is not None:
        run.close()


# Details


def _process_report(config: pytest.Config, *, drain: bool = False) -> ProcessReport | None:
    run = config.stash.get(_RUN, None)
    report = None if run is None else run.report(drain=drain)
    offences = take_offences(config)
    if offences:
        report = report or ProcessReport(kept=[], lost=[], unreleased=[], offences=[])
        report["offences"] = offences
    return report


def _drain(config: pytest.Config) -> None:
    report = _process_report(config, drain=True)
    if report is None:
        return
    if _worker(config) is None:
        _add_report(config, report)
    else:
        cast("_WorkerConfig", config).workeroutput["freshdb"] = report


def _add_report(config: pytest.Config, report: ProcessReport | None) -> None:
    reporter: Reporter | None = config.pluginmanager.get_plugin(_REPORTER)
    if reporter is not None:
        reporter.add(report)


def _run(config: pytest.Config) -> Run:
    run = config.stash.get(_RUN, None)
    if run is None:
        from freshdb.pytest_plugin.run import Run  # noqa: PLC0415 - see the module's docstring

        run = config.stash[_RUN] = Run(read_settings(config), _worker(config), _run_files(config))
    return run


def _prepare(config: pytest.Config, templates: frozenset[str]) -> None:
    if not templates:
        return
    from freshdb.pytest_plugin.run import PreparationError  # noqa: PLC0415

    run = _run(config)
    try:
        with _progress(config) as progress:
            prepared = run.prepare(templates, progress)
        run.publish(prepared)
        reporter: Reporter | None = config.pluginmanager.get_plugin(_REPORTER)
        if reporter is not None:
            reporter.warnings = prepared.warnings
    except PreparationError as error:
        terminal: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.ensure_newline()
            terminal.section("freshdb: no clean databases", red=True)
            terminal.write_line(str(error))
        pytest.exit("freshdb has no clean databases for this run", returncode=pytest.ExitCode.TESTS_FAILED)


@contextmanager
def _progress(config: pytest.Config) -> Iterator[Callable[[str], None]]:
    """Print each step of the preparation, once it takes longer than `_PROGRESS_SECONDS`."""
    terminal: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    latest = ["preparing"]

    def show() -> None:
        if terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(f"freshdb: {latest[0].rstrip('…')}…")

    timer = threading.Timer(_PROGRESS_SECONDS, show)
    timer.daemon = True
    timer.start()

    def progress(line: str) -> None:
        latest[0] = line
        if not timer.is_alive():
            show()

    try:
        yield progress
    finally:
        timer.cancel()


def _fixture_uses(session: pytest.Session) -> Iterator[tuple[pytest.Item, str]]:
    """Yield each collected test with each freshdb fixture that it uses, directly or through other fixtures."""
    for item in session.items:
        if isinstance(item, pytest.Function):
            for fixture in _SCOPES.keys() & set(item.fixturenames):
                yield item, fixture


def _needed_templates(session: pytest.Session) -> frozenset[str]:
    needed = {}
    for item, fixture in _fixture_uses(session):
        node = item.getparent(_SCOPES[fixture]) or item
        if node not in needed:
            needed[node] = clone_request(node, _run(session.config).settings).template
    return frozenset(needed.values())


def _worker(config: pytest.Config) -> str | None:
    """Return the id of this xdist worker, or ``None`` in another process."""
    given: Mapping[str, object] | None = getattr(config, "workerinput", None)
    return None if given is None else str(given["workerid"])


def _run_files(config: pytest.Config) -> RunFiles | None:
    from freshdb.pytest_plugin.xdist_files import RunFiles  # noqa: PLC0415

    given: Mapping[str, object] | None = getattr(config, "workerinput", None)
    if given is not None and "freshdb_run_files" in given:
        return RunFiles(Path(str(given["freshdb_run_files"])))
    return config.stash.get(_RUN_FILES, None)


def _running_service() -> str | None:
    from freshdb.embedded import running_service  # noqa: PLC0415

    service = running_service()
    return None if service is None else service.url
