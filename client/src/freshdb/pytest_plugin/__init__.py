"""The pytest plugin: a clean PostgreSQL database for a test, a class, a module or a session.

Every pytest run loads this module, also those that never ask for a database: it imports nothing beyond pytest
and the standard library. The client, the service and the template come in when a collected test uses one of
our fixtures: then `freshdb.pytest_plugin.run` is loaded and prepares, once, before the first test runs.

- In a plain run, after collection and before the first test.
- Under pytest-xdist, in the controller, when the first worker that has collected says what its tests want
  (`freshdb.pytest_plugin.xdist_files`).
- Later, when a test asks for a fixture that could not be foreseen (``request.getfixturevalue``).

A preparation that fails ends the run with one error: every test that wants a database would fail alike.
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
from freshdb.pytest_plugin.markers import coming, wanted_by
from freshdb.pytest_plugin.reporting import ProcessReport, Reporter
from freshdb.pytest_plugin.settings import add_options, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from freshdb.pytest_plugin.database import LeasedDatabase
    from freshdb.pytest_plugin.run import Run
    from freshdb.pytest_plugin.xdist_files import RunFiles

__all__ = ["LeasedDatabase"]

_RUN: Final = pytest.StashKey["Run"]()
_EXCHANGE: Final = pytest.StashKey["RunFiles"]()
_SCOPES: Final[Mapping[str, type[pytest.Item | pytest.Collector]]] = {
    "freshdb": pytest.Item,
    "freshdb_class": pytest.Class,
    "freshdb_module": pytest.Module,
    "freshdb_session": pytest.Session,
}
_MARKER: Final = (
    "freshdb(template=None, isolation=None): the template and the isolation ('database' or 'schema') "
    "of the databases that the freshdb fixtures give to this test, class or module"
)
_TELLER: Final = "freshdb_teller"
_PATIENCE_SECONDS: Final = 1.0


class _WorkerNode(Protocol):
    """What we use of xdist's WorkerController."""

    config: pytest.Config
    workerinput: dict[str, object]


class _WorkerConfig(Protocol):
    """What xdist adds to a worker's config: what is in it when the worker ends goes to the controller."""

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
    """A clean PostgreSQL database that all tests of this session share; under xdist, one for each worker."""
    yield from _lease(request)


def _lease(request: pytest.FixtureRequest) -> Iterator[LeasedDatabase]:
    try:
        run = _run(request.config)
        wanted = wanted_by(request.node, run.settings)
    except pytest.UsageError as mistake:
        pytest.fail(str(mistake), pytrace=False)
    with run.lease(request, wanted) as database:
        yield database


# Before the first test


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Guard the run before the project's own code comes in."""
    start_guard(early_config)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    if _worker(config) is None:
        config.pluginmanager.register(Reporter(config), _TELLER)


def pytest_report_header(config: pytest.Config) -> str:
    try:
        settings = read_settings(config)
    except pytest.UsageError as mistake:  # ends the run if a test wants a database; a remark otherwise
        return str(mistake)
    service = settings.url or _running_service() or "not started yet"
    return f"freshdb: {service}, template {settings.template or 'not set'}"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: _WorkerNode) -> None:
    """In xdist's controller: tell a new worker where to leave its needs."""
    from freshdb.pytest_plugin.xdist_files import RunFiles  # noqa: PLC0415 - see the module's docstring

    config = node.config
    if _EXCHANGE not in config.stash:
        directory = Path(tempfile.mkdtemp(prefix="freshdb-run-"))
        config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
        config.stash[_EXCHANGE] = RunFiles(directory)
    node.workerinput["freshdb_exchange"] = str(config.stash[_EXCHANGE].directory)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """In an xdist worker: leave its needs, before the controller hears that it has collected."""
    worker = _worker(session.config)
    exchange = _exchange(session.config) if worker is not None else None
    if worker is not None and exchange is not None and any(_users(session)):
        from freshdb.pytest_plugin.xdist_files import NeededTemplates  # noqa: PLC0415

        try:
            needs = NeededTemplates(_needed_templates(session))
        except pytest.UsageError as mistake:
            needs = NeededTemplates(mistake=str(mistake))
        exchange.write_needs(worker, needs)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: _WorkerNode) -> None:
    """In xdist's controller: prepare what this worker's tests want."""
    config = node.config
    needs = config.stash[_EXCHANGE].read_needs(str(node.workerinput["workerid"]))
    if needs.mistake is not None:
        raise pytest.UsageError(needs.mistake)
    _prepare(config, needs.templates)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """In a plain run: prepare what the collected tests want. After the tests: wait for what is done beside them."""
    config = session.config
    broken = session.testsfailed and not config.option.continue_on_collection_errors
    if _worker(config) is None and not config.option.collectonly and not broken:
        _prepare(config, _needed_templates(session))
    try:
        return (yield)
    finally:
        _settle(config)


# During and after the tests


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    run = item.config.stash.get(_RUN, None)
    if run is not None:
        run.expect(coming(item.session, nextitem, run))
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Only now that the test has its own databases: have those of the next ones acquired beside it."""
    run = item.config.stash.get(_RUN, None)
    if run is not None:
        run.look_ahead()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    run = item.config.stash.get(_RUN, None)
    if run is not None:
        run.check(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    yield
    run = item.config.stash.get(_RUN, None)
    if run is not None:
        run.check(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    run = item.config.stash.get(_RUN, None)
    if run is not None and report.failed:
        run.mark_failed(item)
    remarks = _remarks(item.config)
    if remarks is not None:
        report.freshdb = remarks  # type: ignore[attr-defined] # travels to xdist's controller
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: _WorkerNode) -> None:
    """In xdist's controller: hear what came out at a worker's end."""
    output: Mapping[str, ProcessReport] = getattr(node, "workeroutput", {})  # missing, if it has crashed
    _tell(node.config, output.get("freshdb"))


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(_RUN, None)
    if run is not None:
        run.close()


# Details


def _remarks(config: pytest.Config, *, settle: bool = False) -> ProcessReport | None:
    run = config.stash.get(_RUN, None)
    remarks = None if run is None else run.remarks(settle=settle)
    offences = take_offences(config)
    if offences:
        remarks = remarks or ProcessReport(kept=[], lost=[], unreleased=[], offences=[])
        remarks["offences"] = offences
    return remarks


def _settle(config: pytest.Config) -> None:
    remarks = _remarks(config, settle=True)
    if remarks is None:
        return
    if _worker(config) is None:
        _tell(config, remarks)
    else:
        cast("_WorkerConfig", config).workeroutput["freshdb"] = remarks


def _tell(config: pytest.Config, remarks: ProcessReport | None) -> None:
    teller: Reporter | None = config.pluginmanager.get_plugin(_TELLER)
    if teller is not None:
        teller.take(remarks)


def _run(config: pytest.Config) -> Run:
    run = config.stash.get(_RUN, None)
    if run is None:
        from freshdb.pytest_plugin.run import Run  # noqa: PLC0415 - see the module's docstring

        run = config.stash[_RUN] = Run(read_settings(config), _worker(config), _exchange(config))
    return run


def _prepare(config: pytest.Config, templates: frozenset[str]) -> None:
    if not templates:
        return
    from freshdb.pytest_plugin.run import PreparationError  # noqa: PLC0415

    run = _run(config)
    try:
        with _progress(config) as say:
            run.share(run.prepare(templates, say))
    except PreparationError as error:
        terminal: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.ensure_newline()
            terminal.section("freshdb: no clean databases", red=True)
            terminal.write_line(str(error))
        pytest.exit("freshdb has no clean databases for this run", returncode=pytest.ExitCode.TESTS_FAILED)


@contextmanager
def _progress(config: pytest.Config) -> Iterator[Callable[[str], None]]:
    """Print what is being done, once it takes longer than a person waits without asking."""
    terminal: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    latest = ["preparing"]

    def show() -> None:
        if terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(f"freshdb: {latest[0].rstrip('…')}…")

    timer = threading.Timer(_PATIENCE_SECONDS, show)
    timer.daemon = True
    timer.start()

    def say(line: str) -> None:
        latest[0] = line
        if not timer.is_alive():
            show()

    try:
        yield say
    finally:
        timer.cancel()


def _users(session: pytest.Session) -> Iterator[tuple[pytest.Item, str]]:
    """Each collected test with each fixture of ours that it uses, directly or through other fixtures."""
    for item in session.items:
        if isinstance(item, pytest.Function):
            for fixture in _SCOPES.keys() & set(item.fixturenames):
                yield item, fixture


def _needed_templates(session: pytest.Session) -> frozenset[str]:
    wanted = {}
    for item, fixture in _users(session):
        node = item.getparent(_SCOPES[fixture]) or item
        if node not in wanted:
            wanted[node] = wanted_by(node, _run(session.config).settings).template
    return frozenset(wanted.values())


def _worker(config: pytest.Config) -> str | None:
    """Id of the xdist worker that this process is."""
    given: Mapping[str, object] | None = getattr(config, "workerinput", None)
    return None if given is None else str(given["workerid"])


def _exchange(config: pytest.Config) -> RunFiles | None:
    from freshdb.pytest_plugin.xdist_files import RunFiles  # noqa: PLC0415

    given: Mapping[str, object] | None = getattr(config, "workerinput", None)
    if given is not None and "freshdb_exchange" in given:
        return RunFiles(Path(str(given["freshdb_exchange"])))
    return config.stash.get(_EXCHANGE, None)


def _running_service() -> str | None:
    from freshdb.embedded import running_service  # noqa: PLC0415

    service = running_service()
    return None if service is None else service.url
