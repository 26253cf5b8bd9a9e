"""Extensions, in all their forms: in arguments, requests, fingerprints and answers."""

from __future__ import annotations

import pytest

from freshdb import Client, Extension, Template, UnexpectedAnswer, fingerprints
from freshdb.extensions import AnyExtension, listed_extensions
from tests.unit.client.scripted import Reply, Script, template_body

PLACED = Extension("pgcrypto", schema="extensions", version="1.3")
FORM = {"name": "pgcrypto", "schema": "extensions", "version": "1.3"}


def test_every_form_is_accepted(client: Client, script: Script) -> None:
    script.play(*[Reply(200, template_body("ready"))] * 2)
    client.register("shop", fingerprint="abc", extensions=["vector", Extension("citext"), PLACED, FORM])
    client.register("shop", fingerprint="abc", extensions=PLACED)
    bodies = [
        {"name": "shop", "fingerprint": "abc", "extensions": forms}
        for forms in (["vector", "citext", FORM, FORM], [FORM])
    ]
    assert [asked.body for asked in script.asked] == bodies


@pytest.mark.parametrize(
    "text", ["vector", "pgcrypto,schema=extensions", "pgcrypto,schema=extensions,version=1.3"]
)
def test_text_form_is_read_and_written(text: str) -> None:
    assert str(Extension.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "a,b", "a,schema", "a,schema=", "a,colour=red", "a,name=b", "a,schema=x,schema=y", ",schema=x"],
)
def test_wrong_text_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME\[,schema=SCHEMA\]|an extension|must be a string"):
        Extension.parse(text)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"schema": "x"}, "needs a name"),
        ({"name": "a", "colour": "red"}, "no 'colour'"),
        ({"name": ""}, "must be a string"),
    ],
    ids=str,
)
def test_wrong_mapping_is_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        listed_extensions(given)


def test_fingerprint_of_names_is_stable() -> None:
    known = "5c98072369d8836c3ac6a37d61ac303e2cea077e3e307de1e2afa0cd9f0e969d"
    assert fingerprints.of_sql("select 1", ["vector", "citext"]) == known


def test_fingerprint_depends_on_schema_and_version() -> None:
    forms: list[AnyExtension] = [
        "pgcrypto",
        PLACED,
        Extension("pgcrypto", schema="extensions"),
        Extension("pgcrypto", "a", "1"),
    ]
    assert len({fingerprints.of_sql("select 1", form) for form in forms}) == len(forms)
    assert fingerprints.of_sql("select 1", FORM) == fingerprints.of_sql("select 1", PLACED)


def test_answer_gives_names_as_strings() -> None:
    body = template_body(
        "ready", extensions=["vector", FORM, {"name": "citext", "schema": "x", "version": None}]
    )
    assert Template.from_wire(body).extensions == ("vector", PLACED, Extension("citext", "x"))


@pytest.mark.parametrize("extensions", ["vector", [1], [{"schema": "x"}]], ids=str)
def test_wrong_answer_is_refused(extensions: object) -> None:
    with pytest.raises(UnexpectedAnswer):
        Template.from_wire(template_body("ready", extensions=extensions))
