"""Knowledge about freshdb that the OpenAPI document lacks. schemathesis loads this module by itself.

It gives valid SQL for templates, installed extensions, and an existing template for some of the acquires. The stream of
events is requested without ``follow``, because schemathesis would wait for its end for ever. Each acquire with an
idempotency key gets a new one, because a used key with another body is invalid.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

TEMPLATE = "hostile"
MIN_READY = 30
MAX_SIZE = 50
SQL = (
    "select 1",
    "create table if not exists a (id int primary key, name text)",
    'create table if not exists "b\'; drop table a; --" ("<script>" text default $$\';$$)',
    "",
)

schemathesis.openapi.format("sql", st.sampled_from(SQL))
schemathesis.openapi.format("postgresql-extension", st.sampled_from(["plpgsql", "vector"]))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], **kwargs: object) -> None:
    del context, kwargs
    if case.operation.path == "/v1/events":
        case.query = {**(case.query or {}), "follow": "false"}
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    body: Any = case.body
    if case.operation.method == "post" and case.operation.path == "/v1/templates" and isinstance(body, dict):
        # The server may lack a version, and an extension that exists already is in another schema.
        forms = body.get("extensions", [])
        body["extensions"] = [one["name"] if isinstance(one, dict) else one for one in forms]
    if case.operation.method == "patch" and case.operation.path.startswith("/v1/pools/"):
        # Sizes that leave databases to lease for the other calls.
        body |= {"min_ready": MIN_READY, "max_size": MAX_SIZE}
    if case.operation.method == "post" and case.operation.path in {"/v1/leases", "/v1/leases/batch"}:
        if case.headers and "Idempotency-Key" in case.headers:
            case.headers["Idempotency-Key"] = uuid4().hex
        for wanted in body.get("leases", [body]):
            if len(wanted["template"]) % 2:
                wanted["template"] = TEMPLATE
