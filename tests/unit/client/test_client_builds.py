"""The build protocol: one builds, the others wait, and who dies or fails is noticed."""

from __future__ import annotations

import pytest

from freshdb import AsyncClient, BuildGrant, Client, TemplateBuilding, TemplateFailed
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


def test_who_gets_the_build_fills_it_and_says_so(client: Client, script: Script) -> None:
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


def test_a_template_that_is_ready_is_not_built(client: Client, script: Script) -> None:
    script.play(READY)
    assert client.build("shop", "abc", _never).reference == "shop@abc"


def test_a_builder_that_fails_is_reported_without_its_password_and_raised(
    client: Client, script: Script
) -> None:
    script.play(GRANTED, Reply(200, template_body("failed")))

    def builder(grant: BuildGrant) -> None:
        raise RuntimeError(f"cannot connect with {grant.password}")

    with pytest.raises(RuntimeError):
        client.build("shop", "abc", builder)
    assert methods(script.asked)[1] == f"POST /v1/templates/{TEMPLATE}/failed"
    assert script.asked[1].body == {"token": "t0k3n", "message": "RuntimeError: cannot connect with ***"}
    assert PASSWORD not in str(script.asked[1].body)


def test_an_interrupted_builder_lets_the_next_one_start_at_once(client: Client, script: Script) -> None:
    script.play(GRANTED, Reply(200, template_body("failed")))

    def builder(_: BuildGrant) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.build("shop", "abc", builder)
    assert methods(script.asked)[1].endswith("/failed")


def test_others_wait_until_it_is_ready(client: Client, script: Script) -> None:
    script.play(BUILDING, READY)
    assert client.build("shop", "abc", _never).state == "ready"
    assert methods(script.asked)[1].startswith(f"GET /v1/templates/{TEMPLATE}?wait_seconds=")


def test_a_builder_that_fell_silent_is_replaced(client: Client, script: Script) -> None:
    overdue = BUILDING  # answered before the wait is over: the deadline has passed
    script.play(BUILDING, overdue, GRANTED, READY)
    built: list[BuildGrant] = []
    client.build("shop", "abc", built.append)
    assert len(built) == 1
    assert [one.split("?")[0] for one in methods(script.asked)] == [
        REGISTER, f"GET /v1/templates/{TEMPLATE}", REGISTER, f"POST /v1/templates/{TEMPLATE}/ready"
    ]  # fmt: skip


def test_who_waited_for_a_builder_that_failed_is_told_why_and_does_not_fail_the_same_way_again(
    client: Client, script: Script
) -> None:
    failed = template_body("failed", error={"message": "no such table", "line": 3})
    script.play(BUILDING, Reply(200, failed))
    with pytest.raises(TemplateFailed, match="no such table") as caught:
        client.build("shop", "abc", _never)
    assert caught.value.extra["line"] == 3


def test_waiting_has_an_end(client: Client, script: Script) -> None:
    script.play(BUILDING)
    with pytest.raises(TemplateBuilding, match="shop@abc"):
        client.build("shop", "abc", _never, wait_seconds=0.6)


@pytest.mark.usefixtures("frequent_beats")
def test_a_build_is_renewed_while_the_builder_works(client: Client, script: Script) -> None:
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


def test_a_builder_that_was_replaced_takes_what_the_other_has_built(client: Client, script: Script) -> None:
    script.play(GRANTED, problem(409, "build_lost"), BUILDING, READY)
    assert client.build("shop", "abc", lambda _: None).state == "ready"


def test_sql_is_sent_only_if_the_template_is_not_there(client: Client, script: Script) -> None:
    script.play(READY)
    client.ensure_sql("shop", ["create table t ()"])
    [asked] = script.asked
    assert asked.method == "GET"
    assert asked.path.startswith("/v1/templates/shop@")


def test_sql_that_is_not_there_is_registered_under_a_hash_of_its_content(
    client: Client, script: Script
) -> None:
    script.play(problem(404, "template_not_found"), Reply(201, template_body("building")), READY)
    assert client.ensure_sql("shop", ["create table t ()"], extensions=["vector"]).state == "ready"
    body = script.asked[1].body
    assert isinstance(body, dict)
    assert body["sql"] == ["create table t ()"]
    assert script.asked[0].path == f"/v1/templates/shop@{body['fingerprint']}"


async def test_asynchronously_it_goes_the_same_way(script: Script) -> None:
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
