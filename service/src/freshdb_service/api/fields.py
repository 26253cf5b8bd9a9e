"""The kinds of fields that bodies are made of, as exactly as the OpenAPI document can say it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.config import JsonDict

NAME = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$"
FINGERPRINT = r"^[A-Za-z0-9][A-Za-z0-9._+:=/-]{0,127}$"
REFERENCE = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}(@[A-Za-z0-9][A-Za-z0-9._+:=/-]{0,127})?$"
EXTENSION = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"


def _no_null(value: str) -> str:
    if "\x00" in value:
        message = "PostgreSQL cannot store the character U+0000; leave it out"
        raise ValueError(message)
    return value


def number(value: object) -> object:
    """For numbers that are numbers in JSON, too."""
    if isinstance(value, bool | str):
        message = "a number is wanted"
        raise ValueError(message)  # noqa: TRY004 - this is how pydantic hears of it
    return value


def _pairs(value: dict[str, str]) -> dict[str, str]:
    for key, word in value.items():
        _no_null(key)
        _no_null(word)
    return value


NO_NULL: JsonDict = {"pattern": "^[^\\u0000]*$"}
"""What ``_no_null`` checks, for the OpenAPI document."""
Text = Annotated[str, AfterValidator(_no_null), Field(json_schema_extra=NO_NULL)]
Sql = Annotated[Text, Field(json_schema_extra={"format": "sql"})]
Key = Annotated[str, Field(min_length=1, max_length=100)]
Word = Annotated[str, Field(max_length=1000, json_schema_extra=NO_NULL)]
Pairs = Annotated[
    dict[Key, Word],
    Field(
        max_length=50,
        json_schema_extra={"propertyNames": {"minLength": 1, "maxLength": 100, **NO_NULL}},
    ),
    AfterValidator(_pairs),
]
Duration = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(number)]
