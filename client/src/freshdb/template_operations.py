"""Operations on templates, as flows: register, build, wait, retire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from freshdb import fingerprints, json_fields
from freshdb.errors import TemplateBuilding, TemplateFailed, TemplateNotFound
from freshdb.extensions import listed_extensions
from freshdb.messages import Pause, ServiceCall, encode, listed, path, query
from freshdb.models import DEFAULT_WAIT_SECONDS, BuildLog, Template
from freshdb.operations_base import OperationsBase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from freshdb.extensions import AnyExtension
    from freshdb.messages import Flow

DEFAULT_BUILD_SECONDS: Final = 60.0
"""Maximum time between two heartbeats of a builder. A build may take longer."""
DEFAULT_BUILD_WAIT_SECONDS: Final = 600.0

_FINISH_SECONDS: Final = 300.0
"""Extra timeout for turning a filled database into a template."""
_SHORTEST_PAUSE_SECONDS: Final = 0.25


class TemplateOperations(OperationsBase):
    """The operations on templates."""

    __slots__ = ()

    def register(
        self,
        name: str,
        *,
        fingerprint: str | None = None,
        sql: str | Sequence[str] | None = None,
        extensions: AnyExtension | Sequence[AnyExtension] = (),
        build_seconds: float | None = None,
        wait_seconds: float | None = None,
    ) -> Flow[Template]:
        """Register a template. With `sql`, the service builds it. Without it, the first client gets ``.build``.

        Args:
            name: name of the template.
            fingerprint: hash of the content. Required without `sql`.
            sql: one script, or several that are executed in this order.
            extensions: PostgreSQL extensions (one, or several) that the service installs first. Each is a name, an
                ``Extension``, or a mapping with `name`, `schema` and `version`.
            build_seconds: maximum time between two heartbeats of the builder. Then another client gets the build.
            wait_seconds: timeout for the build from `sql`.

        Raises:
            TemplateFailed: the SQL failed. ``extra`` has its position.
            TemplateConflict: a template of this name and fingerprint has other content.
        """
        body: dict[str, object] = {
            "name": name,
            "extensions": [one.form for one in listed_extensions(extensions)],
        }
        optional = {"fingerprint": fingerprint, "build_seconds": build_seconds, "wait_seconds": wait_seconds}
        body |= {key: value for key, value in optional.items() if value is not None}
        if sql is not None:
            body["sql"] = listed(sql)
        extra_seconds = (
            0.0 if sql is None else (DEFAULT_WAIT_SECONDS if wait_seconds is None else wait_seconds)
        )
        # a retry without SQL would find the build granted to the first attempt, whose answer is lost
        call = ServiceCall(
            "POST", "/v1/templates", encode(body), extra_seconds=extra_seconds, repeatable=sql is not None
        )
        return Template.from_wire(json_fields.members((yield from self._ask(call))))

    def template(self, reference: str, *, wait_seconds: float = 0.0) -> Flow[Template]:
        """Look a template up by id, ``name`` or ``name@fingerprint``. Wait for at most `wait_seconds` for its build.

        Raises:
            TemplateNotFound: there is no such template.
        """
        give_up_at = self.policy.clock() + wait_seconds
        while True:
            left = max(0.0, give_up_at - self.policy.clock())
            template = yield from self._get_template(reference, min(left, self.poll_seconds))
            left = give_up_at - self.policy.clock()
            if template.state != "building" or left <= 0:
                return template
            yield Pause(
                min(left, _SHORTEST_PAUSE_SECONDS)
            )  # an early answer: the builder has missed its deadline

    def wait_template(
        self, reference: str, *, wait_seconds: float = DEFAULT_BUILD_WAIT_SECONDS
    ) -> Flow[Template]:
        """Wait until a template is ready.

        Raises:
            TemplateFailed: the build failed.
            TemplateBuilding: it is still being built after `wait_seconds`.
            TemplateNotFound: there is no such template, or it was retired.
        """
        template = yield from self.template(reference, wait_seconds=wait_seconds)
        return _require_ready(template)

    def templates(
        self, *, name: str | None = None, state: str | None = None, limit: int | None = None
    ) -> Flow[list[Template]]:
        """List all templates, or the first `limit`."""
        return (
            yield from self._list(
                "/v1/templates", [("name", name), ("state", state)], limit, Template.from_wire
            )
        )

    def claim_build(
        self,
        name: str,
        fingerprint: str,
        *,
        extensions: AnyExtension | Sequence[AnyExtension] = (),
        build_seconds: float = DEFAULT_BUILD_SECONDS,
        wait_seconds: float = DEFAULT_BUILD_WAIT_SECONDS,
    ) -> Flow[Template]:
        """Wait until the template is ready or this client gets the right to build it (``.build``).

        Raises:
            TemplateFailed: the build of another client failed. Another claim tries again.
            TemplateBuilding: it is still being built after `wait_seconds`.
        """
        give_up_at = self.policy.clock() + wait_seconds
        while True:
            template = yield from self.register(
                name, fingerprint=fingerprint, extensions=extensions, build_seconds=build_seconds
            )
            if template.build is not None or template.state != "building":
                return template if template.build is not None else _require_ready(template)
            left = give_up_at - self.policy.clock()
            if left <= 0:
                return _require_ready(template)
            template = yield from self._get_template(
                template.id, min(left, self.poll_seconds)
            )  # until the builder misses its deadline
            if template.state != "building":
                return _require_ready(template)
            yield Pause(_SHORTEST_PAUSE_SECONDS)

    def ensure_sql(
        self,
        name: str,
        sql: str | Sequence[str],
        *,
        fingerprint: str | None = None,
        extensions: AnyExtension | Sequence[AnyExtension] = (),
        wait_seconds: float = DEFAULT_BUILD_WAIT_SECONDS,
    ) -> Flow[Template]:
        """Build a template from SQL scripts unless it exists, and wait until it is ready.

        Raises:
            TemplateFailed: the SQL failed. ``extra`` has the statement and its position.
        """
        give_up_at = self.policy.clock() + wait_seconds
        exact = fingerprint or fingerprints.of_sql(sql, extensions)
        try:
            template = yield from self._get_template(f"{name}@{exact}", 0.0)
        except TemplateNotFound:
            template = None
        if template is None or template.state != "ready":
            template = yield from self.register(
                name,
                fingerprint=exact,
                sql=sql,
                extensions=extensions,
                wait_seconds=min(wait_seconds, self.poll_seconds),
            )
        left = max(0.0, give_up_at - self.policy.clock())
        if template.state == "building":
            template = yield from self.template(template.id, wait_seconds=left)
        return _require_ready(template)

    def build_renewal(self, template_id: str, token: str) -> ServiceCall:
        """Build the request for a builder's heartbeat."""
        return ServiceCall("POST", path("/v1/templates/{}/renew", template_id), encode({"token": token}))

    def build_ready(self, template_id: str, token: str, *, log: str | None = None) -> Flow[Template]:
        """Report that a template is filled, with the output of its build.

        Raises:
            BuildLost: the deadline had passed, and the filled database was dropped.
        """
        call = ServiceCall(
            "POST",
            path("/v1/templates/{}/ready", template_id),
            encode(_report(token, log=log)),
            extra_seconds=_FINISH_SECONDS,
        )
        return Template.from_wire(json_fields.members((yield from self._ask(call))))

    def build_failed(
        self, template_id: str, token: str, *, message: str | None = None, log: str | None = None
    ) -> Flow[Template]:
        """Report that a template could not be filled, with the output of its build.

        Raises:
            BuildLost: the deadline had passed.
        """
        body = _report(token, message=message, log=log)
        call = ServiceCall("POST", path("/v1/templates/{}/failed", template_id), encode(body))
        return Template.from_wire(json_fields.members((yield from self._ask(call))))

    def build_log(self, template_id: str) -> Flow[BuildLog]:
        """Return the log of the template's last build that has ended.

        Raises:
            TemplateNotFound: there is no such template.
        """
        found = yield from self._ask(ServiceCall("GET", path("/v1/templates/{}/log", template_id)))
        return BuildLog.from_wire(json_fields.members(found))

    def retire(self, template_id: str, *, force: bool = False) -> Flow[Template]:
        """Retire a template. It gets no new leases, and its databases are dropped.

        Raises:
            Conflict: there are active leases on it, and `force` is false.
        """
        address = query(path("/v1/templates/{}", template_id), [("force", "true" if force else None)])
        found = yield from self._ask(ServiceCall("DELETE", address))
        return Template.from_wire(json_fields.members(found))

    def _get_template(self, reference: str, wait_seconds: float) -> Flow[Template]:
        wait = f"{wait_seconds:.3f}" if wait_seconds > 0 else None
        address = query(path("/v1/templates/{}", reference), [("wait_seconds", wait)])
        found = yield from self._ask(ServiceCall("GET", address, extra_seconds=wait_seconds))
        return Template.from_wire(json_fields.members(found))


def _report(token: str, **members: str | None) -> dict[str, str]:
    return {"token": token} | {key: value for key, value in members.items() if value}


def _require_ready(template: Template) -> Template:
    if template.state == "ready":
        return template
    if template.state == "failed":
        failed = template.error
        members = {} if failed is None else {name: getattr(failed, name) for name in failed.__slots__}
        why = "its build failed" if failed is None else failed.message
        raise TemplateFailed(f"template {template.reference}: {why}", status=422, extra=members)
    if template.state == "building":
        message = f"template {template.reference} is still being built: wait longer, or check its builder"
        raise TemplateBuilding(message, status=409)
    message = f"template {template.reference} is {template.state}: register it again"
    raise TemplateNotFound(message, status=404)
