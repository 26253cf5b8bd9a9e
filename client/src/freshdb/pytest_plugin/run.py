"""The calls of one pytest process to the service: prepare the templates, acquire leases for fixtures, and release them.

A lease ends in one of these ways:

- The scope of the fixture ends: the lease is released. The lease of a single test is released in the background (see
  `prefetch`). With ``--freshdb-keep``, the lease is kept if a test that used it failed.
- Ctrl-C, ``-x`` and ``--maxfail``: pytest tears its fixtures down, as above.
- SIGTERM: the session ends regularly, as above. The signal is handled only while leases may be held, and only if
  the process has no other handler for it.
- Leases whose fixtures were not torn down are released in ``pytest_unconfigure`` and at the interpreter's exit.
- The process is killed: the heartbeat stops, and the TTL of the lease ends it.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

import pytest

from freshdb.client import Client
from freshdb.embedded import ensure_service
from freshdb.errors import FreshdbError, LeaseEnded, LeaseLost, TemplateBuilding, TemplateNotFound
from freshdb.pytest_plugin.database import LeasedDatabase
from freshdb.pytest_plugin.holder import describe_holder, for_test
from freshdb.pytest_plugin.markers import CloneRequest, clone_request
from freshdb.pytest_plugin.prefetch import FixtureLease, LeaseOrder, Prefetcher, PrefetchReport
from freshdb.pytest_plugin.reporting import ProcessReport
from freshdb.pytest_plugin.xdist_files import PreparedRun, RunFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from freshdb.held_lease import HeldLease
    from freshdb.pytest_plugin.settings import Settings

_PER_TEST: Final = "freshdb"
_PREFETCH_RETRY_SECONDS: Final = 5.0
_SIGTERM_EXIT: Final = 128 + signal.SIGTERM


class PreparationError(Exception):
    """The service could not be started, or a template could not be built. No test of this run gets a database."""


@dataclass(slots=True, eq=False)
class _Use:
    """A lease that a fixture holds for the tests below `node`."""

    node: pytest.Item | pytest.Collector
    fixture: str
    lease: FixtureLease
    failed: bool = False
    reported: bool = False

    @property
    def held(self) -> HeldLease:
        return self.lease.held

    def serves(self, item: pytest.Item) -> bool:
        return self.node is item or (self.fixture in _fixture_names(item) and self.node in item.listchain())


@dataclass(slots=True)
class Run:
    """State of this process. In an xdist run, the controller prepares and the workers acquire."""

    settings: Settings
    worker: str | None
    run_files: RunFiles | None
    _position: int = 0
    """Index of the next test, where the plugin prefetches for more tests than the next one."""
    _kept: list[str] = field(default_factory=list)
    _orders: list[LeaseOrder] = field(default_factory=list)
    _process: int = field(default_factory=os.getpid)
    _prepared: PreparedRun | None = None
    _client: Client | None = None
    _prefetch_client: Client | None = None
    _prefetcher: Prefetcher | None = None
    _holder: dict[str, str] | None = None
    _uses: list[_Use] = field(default_factory=list)

    def prepare(self, templates: frozenset[str], progress: Callable[[str], None]) -> PreparedRun:
        """Start the service unless a URL is set, and build the project's template if it is needed and missing.

        Raises:
            PreparationError: the service or a template is not available. The message says why and what to do.
        """
        known = self._prepared
        if known is not None and templates <= known.templates.keys():
            return known
        try:
            url = known.url if known else self.settings.url or ensure_service(progress=progress)
            client = self._connect(url)
            warnings = list(known.warnings) if known else []
            exact = {
                name: self._ensure_template(client, name, progress, warnings.append) for name in templates
            }
        except FreshdbError as error:
            raise PreparationError(str(error)) from error
        self._prepared = PreparedRun(
            url, (known.templates if known else {}) | exact, tuple(dict.fromkeys(warnings))
        )
        return self._prepared

    def publish(self, prepared: PreparedRun) -> None:
        """Write the result for the workers of this run."""
        if self.run_files is not None:
            self.run_files.write_prepared(prepared)

    @contextmanager
    def lease(self, request: pytest.FixtureRequest, clone: CloneRequest) -> Iterator[LeasedDatabase]:
        """Hold a clean database until the fixture of `request` is torn down."""
        node = request.node
        name = node.nodeid or f"the session in {request.config.rootpath.name}"
        try:
            use = self._acquire(node, request.fixturename or "freshdb", clone, name)
        except (FreshdbError, PreparationError) as error:
            _fail(f"freshdb: no clean database for {name}: {error}")
        self._uses.append(use)
        try:
            yield LeasedDatabase(use.held)
        finally:
            self._end(use, name)

    def mark_failed(self, item: pytest.Item) -> None:
        """Mark the databases of a failed test, for ``--freshdb-keep``."""
        for use in self._uses:
            use.failed = use.failed or use.serves(item)

    def check_lost(self, item: pytest.Item) -> None:
        """Fail a test if the lease of its class, module or session is lost. A test's own lease is checked at its end."""
        for use in self._uses:
            loss = use.held.loss
            if loss is not None and use.node is not item and use.serves(item):
                use.reported = True
                _fail(_describe_loss(use, loss))

    def close(self) -> None:
        """Release the leases that are still held, without errors. A forked child releases none: they are its parent's."""
        atexit.unregister(self.close)
        if os.getpid() != self._process:
            return
        while self._uses:
            try:
                self._uses.pop().lease.exit_stack.close()
            except FreshdbError:  # no test can report this any more, and the TTL ends the lease
                continue
        if self._prefetcher is not None:
            self._prefetcher.close()
        for client in (self._client, self._prefetch_client):
            if client is not None:
                client.close()
        self._client = self._prefetch_client = self._prefetcher = None

    def plan_prefetch(self, session: pytest.Session, next_item: pytest.Item | None) -> None:
        """Choose the leases to prefetch, and start the client before a test's fixtures patch or change its environment."""
        prepared = self._read_prepared()
        self._orders = [
            LeaseOrder(name, prepared.templates[clone.template], clone.isolation)
            for name, clone in self._next_requests(session, next_item)
            if prepared is not None and clone.template in prepared.templates
        ]
        if prepared is not None and self._orders:
            self._connect(prepared.url)
            end_session_on_sigterm()

    def prefetch(self) -> None:
        """Acquire the chosen leases in the background. The test that starts now already has its own."""
        if self._prefetcher is not None and os.getpid() == self._process:
            self._prefetcher.prefetch(self._orders)

    def report(self, *, drain: bool = False) -> ProcessReport | None:
        """Return the messages since the last report. With `drain`, wait first until the background work is done."""
        found = PrefetchReport()
        if self._prefetcher is not None and os.getpid() == self._process:
            found = self._prefetcher.drain() if drain else self._prefetcher.take_report()
        kept, self._kept = self._kept, []
        if not (kept or found.lost or found.unreleased):
            return None
        lost = [[one.test, _loss_message(one.lease_id, one.database, one.reason)] for one in found.lost]
        return ProcessReport(kept=kept, lost=lost, unreleased=found.unreleased, offences=[])

    def _next_requests(
        self, session: pytest.Session, next_item: pytest.Item | None
    ) -> Iterator[tuple[str, CloneRequest]]:
        """Yield node id and request of each next test that needs its own database. An xdist worker knows only one test."""
        number = self.settings.prefetch
        if next_item is None or number == 0:
            return
        items = [next_item]
        if number > 1 and self.worker is None:
            with suppress(ValueError):  # another plugin has removed or reordered tests
                self._position = session.items.index(next_item, self._position)
                items = session.items[self._position : self._position + number]
        for item in items:
            if _PER_TEST in _fixture_names(item) and item.get_closest_marker("skip") is None:
                with suppress(pytest.UsageError):  # the test itself reports it
                    yield item.nodeid, clone_request(item, self.settings)

    def _connect(self, url: str) -> Client:
        if self._client is None:
            self._client = Client(_addresses(url), retry_seconds=self.settings.wait_seconds)
            if self.settings.prefetch:
                retry_seconds = min(_PREFETCH_RETRY_SECONDS, self.settings.wait_seconds)
                self._describe("")
                self._prefetch_client = Client(_addresses(url), retry_seconds=retry_seconds)
                self._prefetcher = Prefetcher(
                    self._prefetch_client, self._describe, ttl_seconds=self.settings.ttl_seconds
                )
            atexit.register(self.close)
        return self._client

    def _describe(self, name: str) -> dict[str, str]:
        if os.getpid() != self._process:
            return describe_holder(name, self.worker, os.environ)
        if self._holder is None:  # read once, by the tests' thread, because a test may change the environment
            self._holder = describe_holder(name, self.worker, os.environ)
        return for_test(name, self._holder)

    def _read_prepared(self) -> PreparedRun | None:
        if self._prepared is None and self.run_files is not None:
            self._prepared = self.run_files.read_prepared()
        return self._prepared

    def _ensure_template(
        self,
        client: Client,
        template: str,
        progress: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> str:
        """Return the exact template to clone in this run, also if another one is registered under its name later."""
        project = self.settings.project
        if project is not None and template == project.template and (project.build or project.sql):
            return project.ensure_template(client, progress=progress, warn=warn)
        try:
            return client.template(template).reference
        except TemplateNotFound:  # a fixture of the suite may register it before a test needs it
            return template

    def _acquire(
        self, node: pytest.Item | pytest.Collector, fixture: str, clone: CloneRequest, name: str
    ) -> _Use:
        self._read_prepared()
        prepared = self.prepare(frozenset({clone.template}), _no_progress)
        client = self._connect(prepared.url)
        template = prepared.templates[clone.template]
        end_session_on_sigterm()
        prefetcher = self._prefetcher if os.getpid() == self._process else None
        if prefetcher is not None:
            order = LeaseOrder(name, template, clone.isolation)
            spare = prefetcher.take(order) if fixture == _PER_TEST else None
            if spare is not None:
                return _Use(node, fixture, spare)
            prefetcher.release_spares()
        exit_stack = ExitStack()
        for _ in range(2):
            context = client.lease(
                template,
                isolation=clone.isolation,
                ttl_seconds=self.settings.ttl_seconds,
                wait_seconds=self.settings.wait_seconds,
                holder=self._describe(name),
            )
            try:
                return _Use(node, fixture, FixtureLease(exit_stack.enter_context(context), exit_stack))
            except TemplateBuilding:
                client.wait_template(template)
        raise PreparationError(f"template {template!r} is built repeatedly: find the client that builds it")

    def _end(self, use: _Use, name: str) -> None:
        if use not in self._uses:  # released already, by close()
            return
        self._uses.remove(use)
        try:
            if use.failed and self.settings.keep:
                use.held.keep(reason=f"failed: {name}"[:255])
                self._kept.append(self._describe_kept(use, name))
            elif self._release_in_background(use):
                return
            use.lease.exit_stack.close()
        except (LeaseLost, LeaseEnded) as loss:
            if not use.reported:
                _fail(_describe_loss(use, loss))
        except FreshdbError as error:
            _fail(f"freshdb: the lease of {name} could not be released: {error}")

    def _release_in_background(self, use: _Use) -> bool:
        """Release a test's own lease while the next tests run. A lost lease is not, because the test must report it."""
        prefetcher = self._prefetcher
        own = os.getpid() == self._process and not use.held.inherited
        if prefetcher is None or not own or use.fixture != _PER_TEST or use.held.loss is not None:
            return False
        prefetcher.release(use.lease, use.node.nodeid)
        return True

    def _describe_kept(self, use: _Use, name: str) -> str:
        environment = f"FRESHDB_URL={self.settings.url} " if self.settings.url else ""
        return f"{name}: {environment}freshdb psql --lease {use.held.id}"


def end_session_on_sigterm() -> None:
    """Make SIGTERM end the session as Ctrl-C does, with exit status 143, unless the process has a handler for it."""
    unhandled = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if unhandled and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _exit_session)


def _exit_session(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pytest.exit("SIGTERM", returncode=_SIGTERM_EXIT)


def _addresses(url: str) -> list[str]:
    return [address.strip() for address in url.split(",")]


def _fixture_names(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []


def _describe_loss(use: _Use, loss: LeaseLost | LeaseEnded) -> str:
    reason = loss.reason if isinstance(loss, LeaseLost) else str(loss)
    return _loss_message(use.held.id, use.held.lease.database, reason)


def _loss_message(lease_id: str, database: str, reason: str) -> str:
    return (
        f"freshdb: the lease {lease_id} of {database!r} was lost while the test held it: {reason.rstrip('.')}. "
        "The result of this test is not reliable."
    )


def _fail(message: str) -> NoReturn:
    pytest.fail(message, pytrace=False)


def _no_progress(_line: str) -> None:
    return
