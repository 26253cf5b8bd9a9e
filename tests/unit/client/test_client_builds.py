"""The build protocol: one client builds, the others wait, and a dead or failed builder is detected."""

from __future__ import annotations

import pytest

from freshdb import AsyncClient, BuildGrant, Client, Conflict, TemplateBuilding, TemplateFailed
from tests.limits import LIMIT_SECONDS
from tests.unit.client.scripted import (
    PASSWORD,
    TEMPLATE,
    Asked,
    Reply,
    Script,
    build_body,
    methods,
    problem,
    template_body,
)

REGISTER = "POST /v1/templates"
GRANTED = Reply(201, template_body("building", build=build_body()))
BUILDING = Reply(200, template_body("building"))
READY = Reply(200, template_body("ready"))


def _never(_: BuildGrant) -> None:
    pytest.fail("the builder was called")


def test_client_with_the_build_fills_the_template_and_reports_it(client: Client, script: Script) -> None:
    script.play(GRANTED, READY)
    seen: list[str] = []
    template = client.build("shop", "abc", lambda grant: seen.append(grant.url), extensions=["vector"])
    assert template.state == "ready"
    assert seen[0].startswith("postgresql://b:")
    assert methods(script.asked) == [REGISTER, f"POST /v1/templates/{TEMPLATE}/ready"]
    assert script.asked[0].body == {
        "name": "shop", "fingerprint": "abc", "extensions": ["vector"], "build_seconds": 60.0
    }  # fmt: skip
    assert script.asked[1].body == {"token": "t0k3n"}


def test_ready_template_is_not_built(client: Client, script: Script) -> None:
    script.play(READY)
    assert client.build("shop", "abc", _never).reference == "shop@abc"


def test_builder_error_is_raised_and_reported_without_password(client: Client, script: Script) -> None:
    script.play(GRANTED, Reply(200, template_body("failed")))

    def builder(grant: BuildGrant) -> None:
        raise RuntimeError(f"cannot connect with {grant.password}")

    with pytest.raises(RuntimeError):
        client.build("shop", "abc", builder)
    assert methods(script.asked)[1] == f"POST /v1/templates/{TEMPLATE}/failed"
    assert script.asked[1].body == {"token": "t0k3n", "message": "RuntimeError: cannot connect with ***"}
    assert PASSWORD not in str(script.asked[1].body)


def test_interrupted_builder_reports_failure(client: Client, script: Script) -> None:
    script.play(GRANTED, Reply(200, template_body("failed")))

    def builder(_: BuildGrant) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.build("shop", "abc", builder)
    assert methods(script.asked)[1].endswith("/failed")


def test_other_clients_wait_until_template_is_ready(client: Client, script: Script) -> None:
    script.play(BUILDING, READY)
    assert client.build("shop", "abc", _never).state == "ready"
    assert methods(script.asked)[1].startswith(f"GET /v1/templates/{TEMPLATE}?wait_seconds=")


def test_builder_without_heartbeat_is_replaced(client: Client, script: Script) -> None:
    overdue = BUILDING  # an answer before the end of the wait: the deadline has passed
    script.play(BUILDING, overdue, GRANTED, READY)
    built: list[BuildGrant] = []
    client.build("shop", "abc", built.append)
    assert len(built) == 1
    assert [one.split("?")[0] for one in methods(script.asked)] == [
        REGISTER, f"GET /v1/templates/{TEMPLATE}", REGISTER, f"POST /v1/templates/{TEMPLATE}/ready"
    ]  # fmt: skip


def test_client_that_waited_gets_the_error_of_the_failed_builder(client: Client, script: Script) -> None:
    failed = template_body("failed", error={"message": "no such table", "line": 3})
    script.play(BUILDING, Reply(200, failed))
    with pytest.raises(TemplateFailed, match="no such table") as caught:
        client.build("shop", "abc", _never)
    assert caught.value.extra["line"] == 3


def test_wait_for_a_build_times_out(client: Client, script: Script) -> None:
    script.play(BUILDING)
    with pytest.raises(TemplateBuilding, match="shop@abc"):
        client.build("shop", "abc", _never, wait_seconds=0.6)


@pytest.mark.usefixtures("frequent_heartbeats")
def test_build_is_renewed_while_builder_runs(client: Client, script: Script) -> None:
    granted = Reply(
        201, template_body("building", build={**build_body(), "renew_seconds": LIMIT_SECONDS / 3})
    )

    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/renew"):
            return Reply(200, {"deadline_at": "2026-01-01T00:00:00Z"})
        return READY

    script.play(granted, answer)
    client.build("shop", "abc", lambda _: script.wait_for(4))
    assert methods(script.asked)[1:3] == [f"POST /v1/templates/{TEMPLATE}/renew"] * 2
    assert script.asked[1].body == {"token": "t0k3n"}


def test_replaced_builder_returns_template_of_the_other(client: Client, script: Script) -> None:
    script.play(GRANTED, problem(409, "build_lost"), BUILDING, READY)
    assert client.build("shop", "abc", lambda _: None).state == "ready"


def test_sql_is_not_sent_if_template_exists(client: Client, script: Script) -> None:
    script.play(READY)
    client.ensure_sql("shop", ["create table t ()"])
    [asked] = script.asked
    assert asked.method == "GET"
    assert asked.path.startswith("/v1/templates/shop@")


def test_one_script_given_as_a_text_equals_a_list_of_one(client: Client, script: Script) -> None:
    missing, built = problem(404, "template_not_found"), Reply(201, template_body("building"))
    script.play(missing, built, READY, missing, built, READY)
    client.ensure_sql("shop", "create table t ()", extensions="vector")
    client.ensure_sql("shop", ["create table t ()"], extensions=["vector"])
    assert script.asked[1].body == script.asked[4].body
    assert [one.path for one in script.asked[:3]] == [one.path for one in script.asked[3:]]


def test_one_scope_or_state_of_tokens_is_a_list_of_one(client: Client, script: Script) -> None:
    script.play(*[problem(409, "conflict")] * 2, *[Reply(200, {"items": []})] * 2)
    for scopes in ("lease", ["lease"]):
        with pytest.raises(Conflict):
            client.create_token("ci", scopes=scopes)
    for states in ("active", ["active"]):
        client.tokens(states=states)
    one, same, first, second = script.asked
    assert isinstance(one.body, dict)
    assert one.body["scopes"] == ["lease"]
    assert (one.body, first.path) == (same.body, second.path)


def test_missing_sql_template_is_registered_under_its_content_hash(client: Client, script: Script) -> None:
    script.play(problem(404, "template_not_found"), Reply(201, template_body("building")), READY)
    assert client.ensure_sql("shop", ["create table t ()"], extensions=["vector"]).state == "ready"
    body = script.asked[1].body
    assert isinstance(body, dict)
    assert body["sql"] == ["create table t ()"]
    assert script.asked[0].path == f"/v1/templates/shop@{body['fingerprint']}"


async def test_async_build_reports_ready_and_failed(script: Script) -> None:
    script.play(GRANTED, READY, GRANTED, Reply(200, template_body("failed")))
    built: list[BuildGrant] = []

    async def builder(grant: BuildGrant) -> None:
        if built:
            raise ZeroDivisionError
        built.append(grant)

    async with AsyncClient(script.url) as client:
        assert (await client.build("shop", "abc", builder)).state == "ready"
        with pytest.raises(ZeroDivisionError):
            await client.build("shop", "abc", builder)
    assert methods(script.asked)[3].endswith("/failed")
