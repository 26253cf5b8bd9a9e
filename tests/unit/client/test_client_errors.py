"""Problems of the service are raised as typed errors."""

from __future__ import annotations

import pytest

import freshdb
from freshdb import (
    Client,
    InvalidRequest,
    IsolationUnsupported,
    PoolExhausted,
    ServiceError,
    UnexpectedAnswer,
)
from freshdb.errors import BY_CODE, ServiceUnreachable, TemplateFailed
from freshdb_service import errors as of_the_service
from tests.unit.client.scripted import Reply, Script, problem

KNOWN = sorted(BY_CODE)


def test_every_error_code_of_the_service_has_a_class() -> None:
    kinds = [
        one
        for one in vars(of_the_service).values()
        if isinstance(one, type) and issubclass(one, of_the_service.FreshdbError)
    ]
    never_answered = {"configuration_error"}  # the service does not start after this error
    assert {one.code for one in kinds} - never_answered == set(BY_CODE) - {"unknown"}


@pytest.mark.parametrize("code", KNOWN)
def test_error_code_raises_its_class(code: str, script: Script) -> None:
    script.play(problem(418, code, "a sentence", retry_after=3, more={"a": 1}))
    with Client(script.url) as client, pytest.raises(BY_CODE[code], match="a sentence") as caught:
        client.get_lease("x")
    error = caught.value
    assert (error.code, error.status, error.detail) == (code, 418, "a sentence")
    assert error.retry_after_seconds == 3.0
    assert error.extra == {"more": {"a": 1}}


def test_unknown_code_raises_service_error_with_that_code(client: Client, script: Script) -> None:
    script.play(problem(409, "moon_is_full", "wait a week"))
    with pytest.raises(ServiceError, match="wait a week") as caught:
        client.get_lease("x")
    assert type(caught.value) is ServiceError
    assert (caught.value.code, caught.value.status) == ("moon_is_full", 409)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404, "<html>nothing here</html>", content_type="text/html"),
        Reply(200, "<html>welcome</html>", content_type="text/html"),
        Reply(302, "", {"Location": "http://elsewhere.example/"}),
        Reply(500, {"detail": "no code"}),
        Reply(200, ["a list"]),
        Reply(200, {"id": 1}),
    ],
    ids=["html 404", "html 200", "redirect", "json without code", "list", "other object"],
)
def test_foreign_answer_raises_unexpected_answer(reply: Reply, client: Client, script: Script) -> None:
    script.play(reply)
    with pytest.raises(UnexpectedAnswer):
        client.get_lease("x")


def test_errors_have_the_members_of_their_code() -> None:
    exhausted = PoolExhausted("full", status=503, extra={"queue_position": 2, "queue_length": 5})
    assert (exhausted.queue_position, exhausted.queue_length) == (2, 5)
    assert IsolationUnsupported("no", status=422, extra={"reasons": ["a", "b"]}).reasons == ("a", "b")
    invalid = InvalidRequest(
        "wrong", status=422, extra={"errors": [{"field": "ttl_seconds", "message": "too long"}]}
    )
    assert invalid.errors == (("ttl_seconds", "too long"),)
    assert "ttl_seconds: too long" in str(invalid)


def test_docstring_of_errors_names_every_class() -> None:
    drawing = freshdb.errors.__doc__ or ""
    for name in freshdb.errors.__all__:
        assert name in drawing
    assert issubclass(TemplateFailed, ServiceError)
    assert not issubclass(ServiceUnreachable, ServiceError)
