"""What schemathesis has to know of freshdb beyond the OpenAPI document (it loads this module by itself).

SQL that a template can be made of; extensions that are there; a template that exists, for some of the acquires. A stream of
events is asked for as far as it has come: one that goes on for ever would never be judged. And what is valid by itself, but
not beside what was sent before (an idempotency key with another body), is sent with a key of its own.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

TEMPLATE = "hostile"
READY = 30
MOST = 50
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
    if case.operation.method == "patch" and case.operation.path.startswith("/v1/pools/"):
        # Sizes that leave the other calls something to lease.
        body |= {"min_ready": READY, "max_size": MOST}
    if case.operation.method == "post" and case.operation.path in {"/v1/leases", "/v1/leases/batch"}:
        if case.headers and "Idempotency-Key" in case.headers:
            case.headers["Idempotency-Key"] = uuid4().hex
        for wanted in body.get("leases", [body]):
            if len(wanted["template"]) % 2:
                wanted["template"] = TEMPLATE
