"""Types of the fields of bodies, as exact as the OpenAPI document can describe them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.config import JsonDict

NAME = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$"
FINGERPRINT = r"^[A-Za-z0-9][A-Za-z0-9._+:=/-]{0,127}$"
REFERENCE = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}(@[A-Za-z0-9][A-Za-z0-9._+:=/-]{0,127})?$"
EXTENSION = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
SCHEMA = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"
VERSION = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$"


def _no_null(value: str) -> str:
    if "\x00" in value:
        message = "must not contain the character U+0000, which PostgreSQL cannot store"
        raise ValueError(message)
    return value


def _own_schema(value: str) -> str:
    if value.startswith("pg_") or value == "information_schema":
        message = "must not be a schema of PostgreSQL's own: choose another name, such as extensions"
        raise ValueError(message)
    return value


def number(value: object) -> object:
    """Refuse booleans and strings, which pydantic would convert to numbers."""
    if isinstance(value, bool | str):
        message = "must be a number"
        raise ValueError(message)  # noqa: TRY004 - pydantic expects a ValueError
    return value


def _pairs(value: dict[str, str]) -> dict[str, str]:
    for key, word in value.items():
        _no_null(key)
        _no_null(word)
    return value


NO_NULL: JsonDict = {"pattern": "^[^\\u0000]*$"}
"""The check of ``_no_null`` for the OpenAPI document."""
Text = Annotated[str, AfterValidator(_no_null), Field(json_schema_extra=NO_NULL)]
ExtensionName = Annotated[str, Field(pattern=EXTENSION, json_schema_extra={"format": "postgresql-extension"})]
ExtensionSchema = Annotated[
    str,
    Field(
        pattern=SCHEMA,
        json_schema_extra={"pattern": r"^(?!pg_|information_schema$)[A-Za-z_][A-Za-z0-9_]{0,62}$"},
    ),
    AfterValidator(_own_schema),
]
ExtensionVersion = Annotated[str, Field(pattern=VERSION)]
Sql = Annotated[Text, Field(json_schema_extra={"format": "sql"})]
Key = Annotated[str, Field(min_length=1, max_length=100)]
Word = Annotated[str, Field(max_length=1000, json_schema_extra=NO_NULL)]
Pairs = Annotated[
    dict[Key, Word],
    Field(max_length=50, json_schema_extra={"propertyNames": {"minLength": 1, "maxLength": 100, **NO_NULL}}),
    AfterValidator(_pairs),
]
Duration = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(number)]
