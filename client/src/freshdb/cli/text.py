"""Values as text for people, and as JSON for programs."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from freshdb.models import Lease

_SHOWN_CHARACTERS: Final = 12


def as_json(value: object) -> object:
    """Turn records into JSON values, with the names that the REST interface uses."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_json(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    return value


def without_password(lease: Lease) -> dict[str, object]:
    """Turn a lease into a JSON object without its password."""
    shown = [one.name for one in fields(lease) if one.name != "password"]
    return {name: as_json(getattr(lease, name)) for name in shown}


def pairs(values: Mapping[str, object]) -> str:
    """Write ``key=value`` words."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def size(number: int | None) -> str:
    """Write a number of bytes with its unit."""
    if number is None:
        return "-"
    amount = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1024 or unit == "GB":  # noqa: PLR2004 - PostgreSQL counts in steps of 1024, too
            return f"{amount:.0f} {unit}"
        amount /= 1024
    raise AssertionError


def short(reference: str) -> str:
    """Shorten ``name@fingerprint`` for a table. JSON has it whole."""
    name, separator, fingerprint = reference.partition("@")
    cut = fingerprint if len(fingerprint) <= _SHOWN_CHARACTERS else f"{fingerprint[:_SHOWN_CHARACTERS]}…"
    return f"{name}{separator}{cut}"


def cell(value: object) -> str:
    """Write a value for a cell of a table, on one line."""
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return " ".join(str(value).split())
