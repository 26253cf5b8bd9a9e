"""Reads members of JSON objects with a check of their types. Unknown members are ignored.

A wrong or missing member raises ``UnexpectedAnswer`` with its name. So an incompatible service is detected in its
answer, and not later by an ``AttributeError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, Protocol, TypeAlias

from freshdb.errors import UnexpectedAnswer

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import Field
    from typing import TypeVar

    T = TypeVar("T")
    D = TypeVar("D", bound="_Dataclass")

Members: TypeAlias = Mapping[str, object]


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def members(value: object, name: str = "the answer") -> Members:
    """Return `value` if it is a JSON object."""
    if isinstance(value, dict):
        return value
    message = f"{name} is not a JSON object"
    raise UnexpectedAnswer(message)


def text(source: Members, key: str) -> str:
    """Read a string."""
    value = source.get(key)
    return value if isinstance(value, str) else _wrong(source, key, "a string")


def whole(source: Members, key: str) -> int:
    """Read an integer."""
    value = source.get(key)
    return (
        value if isinstance(value, int) and not isinstance(value, bool) else _wrong(source, key, "an integer")
    )


def number(source: Members, key: str) -> float:
    """Read a number."""
    value = source.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return _wrong(source, key, "a number")


def instant(source: Members, key: str) -> datetime:
    """Read an RFC 3339 time."""
    try:
        found = datetime.fromisoformat(text(source, key))
    except ValueError:
        return _wrong(source, key, "an RFC 3339 time")
    return found if found.tzinfo is not None else _wrong(source, key, "an RFC 3339 time with an offset")


def maybe(read: Callable[[Members, str], T], source: Members, key: str) -> T | None:
    """Read an optional member: ``None`` if it is missing or null."""
    return None if source.get(key) is None else read(source, key)


def texts(source: Members, key: str) -> tuple[str, ...]:
    """Read a list of strings, empty if it is missing."""
    value = source.get(key)
    if value is None:
        return ()
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    return _wrong(source, key, "a list of strings")


def text_map(source: Members, key: str) -> Mapping[str, str]:
    """Read an object of strings, empty if it is missing."""
    value = source.get(key)
    if value is None:
        return {}
    if isinstance(value, dict) and all(isinstance(one, str) for one in value.values()):
        return dict(value)
    return _wrong(source, key, "an object of strings")


def whole_map(source: Members, key: str) -> Mapping[str, int]:
    """Read an object of integers, empty if it is missing."""
    value = source.get(key)
    if value is None:
        return {}
    if isinstance(value, dict) and all(isinstance(one, int) for one in value.values()):
        return dict(value)
    return _wrong(source, key, "an object of integers")


def items(value: object) -> tuple[list[Members], str | None]:
    """Read one page of a list: its items and the cursor of the next page."""
    page = members(value)
    found = page.get("items")
    if not isinstance(found, list):
        _wrong(page, "items", "a list")
    return [members(one, "an item") for one in found], maybe(text, page, "next")


_READERS: Final[Mapping[str, Callable[[Members, str], object]]] = {
    "str": text,
    "int": whole,
    "float": number,
    "datetime": instant,
    "tuple[str, ...]": texts,
    "Mapping[str, str]": text_map,
    "Mapping[str, int]": whole_map,
}


def read(kind: type[D], source: Members, **given: object) -> D:
    """Read a dataclass: each field from the member with its name, by its annotation (a string), except the `given` ones.

    An optional field is ``None`` if its member is missing or null. A field with a default takes that.
    """
    values = dict(given)
    for one in fields(kind):
        missing = source.get(one.name) is None
        if one.name in values or (missing and one.default is not MISSING):
            continue
        annotation, _, optional = str(one.type).partition(" | ")
        values[one.name] = None if missing and optional else _READERS[annotation](source, one.name)
    return kind(**values)


def _wrong(source: Members, key: str, expected: str) -> NoReturn:
    found = type(source[key]).__name__ if key in source else "missing"  # the value may be a secret
    message = (
        f"the answer's {key!r} must be {expected}, but is {found}: is this a freshdb service of this version?"
    )
    raise UnexpectedAnswer(message)
