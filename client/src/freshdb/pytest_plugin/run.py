"""One pytest process's dealings with the service: prepare it, acquire for fixtures, give back, always.

How a lease ends:

- the fixture's scope ends: released (a single test's beside the tests that follow, see `errands`); or kept, when a
  test that used it failed under ``--freshdb-keep``;
- Ctrl-C, ``-x``, ``--maxfail``: pytest tears its fixtures down, which is the case above;
- SIGTERM: turned into a regular end of the session (only while leases may be held, and only if nobody else
  handles the signal), which is the case above;
- whatever was not torn down by then is released in ``pytest_unconfigure`` and at the interpreter's exit;
- the process is killed: the heartbeat stops, the lease's TTL ends it.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

import pytest

from freshdb.client import Client
from freshdb.embedded import ensure_service
from freshdb.errors import (
    FreshdbError,
    LeaseEnded,
    LeaseLost,
    TemplateBuilding,
    TemplateNotFound,
)
from freshdb.pytest_plugin.database import LeasedDatabase
from freshdb.pytest_plugin.holder import describe_holder, in_name_of
from freshdb.pytest_plugin.prefetch import LeaseOrder, Prefetcher, PrefetchReport, TestLease
from freshdb.pytest_plugin.reporting import ProcessReport
from freshdb.pytest_plugin.xdist_files import PreparedRun, RunFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from freshdb.held_lease import HeldLease
    from freshdb.pytest_plugin.markers import CloneRequest
    from freshdb.pytest_plugin.settings import Settings

_PER_TEST: Final = "freshdb"
_ERRAND_SECONDS: Final = 5.0
_SIGTERM_EXIT: Final = 128 + signal.SIGTERM


class PreparationError(Exception):
    """The service could not be started, or the template not be built: no test of this run gets a database."""


@dataclass(slots=True, eq=False)
class _Use:
    """A lease that a fixture holds, for the tests below `node`."""

    node: pytest.Item | pytest.Collector
    fixture: str
    in_hand: TestLease
    failed: bool = False
    reported: bool = False

    @property
    def held(self) -> HeldLease:
        return self.in_hand.held

    def serves(self, item: pytest.Item) -> bool:
        return self.node is item or (self.fixture in _fixture_names(item) and self.node in item.listchain())


@dataclass(slots=True)
class Run:
    """State of this process; the controller of an xdist run prepares, the workers acquire."""

    settings: Settings
    worker: str | None
    exchange: RunFiles | None
    position: int = 0
    """Where in the list of tests we are, if more than the next one is looked for."""
    _kept: list[str] = field(default_factory=list)
    _orders: list[LeaseOrder] = field(default_factory=list)
    _process: int = field(default_factory=os.getpid)
    _prepared: PreparedRun | None = None
    _client: Client | None = None
    _helper: Client | None = None
    _errands: Prefetcher | None = None
    _holder: dict[str, str] | None = None
    _uses: list[_Use] = field(default_factory=list)

    def prepare(self, templates: frozenset[str], say: Callable[[str], None]) -> PreparedRun:
        """Start the service if none is named, and build the project's template if it is wanted and not there.

        Raises:
            PreparationError: with everything a person needs to know, in a few lines.
        """
        known = self._prepared
        if known is not None and templates <= known.templates.keys():
            return known
        try:
            url = known.url if known else self.settings.url or ensure_service(progress=say)
            client = self._connect(url)
            exact = {name: self._ensure(client, name, say) for name in templates}
        except FreshdbError as error:
            raise PreparationError(str(error)) from error
        self._prepared = PreparedRun(url, (known.templates if known else {}) | exact)
        return self._prepared

    def share(self, prepared: PreparedRun) -> None:
        """Let the workers of this run know."""
        if self.exchange is not None:
            self.exchange.write_prepared(prepared)

    @contextmanager
    def lease(self, request: pytest.FixtureRequest, wanted: CloneRequest) -> Iterator[LeasedDatabase]:
        """Hold a clean database for as long as the fixture of `request` lives."""
        node = request.node
        name = node.nodeid or f"the session in {request.config.rootpath.name}"
        try:
            use = self._acquire(node, request.fixturename or "freshdb", wanted, name)
        except (FreshdbError, PreparationError) as error:
            _fail(f"freshdb: no clean database for {name}: {error}")
        self._uses.append(use)
        try:
            yield LeasedDatabase(use.held)
        finally:
            self._end(use, name)

    def mark_failed(self, item: pytest.Item) -> None:
        """Remember for ``--freshdb-keep`` that a test failed on its databases."""
        for use in self._uses:
            use.failed = use.failed or use.serves(item)

    def check(self, item: pytest.Item) -> None:
        """Fail a test whose class's, module's or session's lease is lost; a test's own tells at its end."""
        for use in self._uses:
            loss = use.held.loss
            if loss is not None and use.node is not item and use.serves(item):
                use.reported = True
                _fail(_loss(use, loss))

    def close(self) -> None:
        """Release what is still held, quietly. In a forked child: nothing, the leases are its parent's."""
        atexit.unregister(self.close)
        if os.getpid() != self._process:
            return
        while self._uses:
            try:
                self._uses.pop().in_hand.ending.close()
            except FreshdbError:  # the run is over: the TTL ends what cannot be released
                continue
        if self._errands is not None:
            self._errands.close()
        for client in (self._client, self._helper):
            if client is not None:
                client.close()
        self._client = self._helper = self._errands = None

    def expect(self, coming: list[tuple[str, CloneRequest]]) -> None:
        """Hear of the tests to come, by node id, before a test's fixtures change the world that a client starts in."""
        known = self._known()
        self._orders = [
            LeaseOrder(name, known.templates[wanted.template], wanted.isolation)
            for name, wanted in coming
            if known is not None and wanted.template in known.templates
        ]
        if known is not None and self._orders:
            self._connect(known.url)
            end_session_on_sigterm()

    def look_ahead(self) -> None:
        """Have their leases acquired, beside the test that begins now and after its own."""
        if self._errands is not None and os.getpid() == self._process:
            self._errands.look_ahead(self._orders)

    def remarks(self, *, settle: bool = False) -> ProcessReport | None:
        """What there is to tell since the last time; `settle` waits until everything beside the tests is done."""
        found = PrefetchReport()
        if self._errands is not None and os.getpid() == self._process:
            found = self._errands.settle() if settle else self._errands.found()
        kept, self._kept = self._kept, []
        if not (kept or found.losses or found.unreleased):
            return None
        lost = [[one.test, _loss_message(one.lease_id, one.database, one.reason)] for one in found.losses]
        return ProcessReport(kept=kept, lost=lost, unreleased=found.unreleased, offences=[])

    def _connect(self, url: str) -> Client:
        if self._client is None:
            self._client = Client(_addresses(url), retry_seconds=self.settings.wait_seconds)
            if self.settings.prefetch:
                patience = min(_ERRAND_SECONDS, self.settings.wait_seconds)
                self._describe("")
                self._helper = Client(_addresses(url), retry_seconds=patience)
                self._errands = Prefetcher(
                    self._helper, self._describe, ttl_seconds=self.settings.ttl_seconds
                )
            atexit.register(self.close)
        return self._client

    def _describe(self, name: str) -> dict[str, str]:
        if os.getpid() != self._process:
            return describe_holder(name, self.worker, os.environ)
        if self._holder is None:  # once, by the tests' thread: a test may change the environment
            self._holder = describe_holder(name, self.worker, os.environ)
        return in_name_of(name, self._holder)

    def _known(self) -> PreparedRun | None:
        if self._prepared is None and self.exchange is not None:
            self._prepared = self.exchange.read_prepared()
        return self._prepared

    def _ensure(self, client: Client, template: str, say: Callable[[str], None]) -> str:
        """The exact template that this run clones, whatever is registered under the same name meanwhile."""
        project = self.settings.project
        if project is not None and template == project.template and (project.build or project.sql):
            return project.ensure_template(client, progress=say)
        try:
            return client.template(template).reference
        except TemplateNotFound:  # a fixture of the suite may register it before it asks for a database
            return template

    def _acquire(
        self, node: pytest.Item | pytest.Collector, fixture: str, wanted: CloneRequest, name: str
    ) -> _Use:
        self._known()
        prepared = self.prepare(frozenset({wanted.template}), _say_nothing)
        client = self._connect(prepared.url)
        template = prepared.templates[wanted.template]
        end_session_on_sigterm()
        errands = self._errands if os.getpid() == self._process else None
        if errands is not None:
            spare = (
                errands.take(LeaseOrder(name, template, wanted.isolation)) if fixture == _PER_TEST else None
            )
            if spare is not None:
                return _Use(node, fixture, spare)
            errands.recall()
        ending = ExitStack()
        for _ in range(2):
            context = client.lease(
                template,
                isolation=wanted.isolation,
                ttl_seconds=self.settings.ttl_seconds,
                wait_seconds=self.settings.wait_seconds,
                holder=self._describe(name),
            )
            try:
                return _Use(node, fixture, TestLease(ending.enter_context(context), ending))
            except TemplateBuilding:
                client.wait_template(template)
        raise PreparationError(f"template {template!r} is being built again and again")

    def _end(self, use: _Use, name: str) -> None:
        if use not in self._uses:  # released already, by close()
            return
        self._uses.remove(use)
        try:
            if use.failed and self.settings.keep:
                use.held.keep(reason=f"failed: {name}"[:255])
                self._kept.append(self._describe_kept(use, name))
            elif self._beside(use):
                return
            use.in_hand.ending.close()
        except (LeaseLost, LeaseEnded) as loss:
            if not use.reported:
                _fail(_loss(use, loss))
        except FreshdbError as error:
            _fail(f"freshdb: the lease of {name} could not be given back: {error}")

    def _beside(self, use: _Use) -> bool:
        """Have a test's own lease released beside the tests to come; not if it is lost, which the test must tell."""
        errands = self._errands
        mine = os.getpid() == self._process and not use.held.inherited
        if errands is None or not mine or use.fixture != _PER_TEST or use.held.loss is not None:
            return False
        errands.give_back(use.in_hand, use.node.nodeid)
        return True

    def _describe_kept(self, use: _Use, name: str) -> str:
        place = f"FRESHDB_URL={self.settings.url} " if self.settings.url else ""
        return f"{name}: {place}freshdb psql --lease {use.held.id}"


def end_session_on_sigterm() -> None:
    """Make SIGTERM end the session as Ctrl-C does, unless somebody handles it; exit status 143."""
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


def _loss(use: _Use, loss: LeaseLost | LeaseEnded) -> str:
    reason = loss.reason if isinstance(loss, LeaseLost) else str(loss)
    return _loss_message(use.held.id, use.held.lease.database, reason)


def _loss_message(lease_id: str, database: str, reason: str) -> str:
    return (
        f"freshdb: the lease {lease_id} of {database!r} was lost while the test held it: {reason.rstrip('.')}. "
        "What the test saw since then proves nothing."
    )


def _fail(message: str) -> NoReturn:
    pytest.fail(message, pytrace=False)


def _say_nothing(_line: str) -> None:
    return
