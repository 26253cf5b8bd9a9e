"""Extensions of a template, as callers name them: a name, an ``Extension``, or a mapping with the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

KEYS: Final = ("name", "schema", "version")


@dataclass(frozen=True, slots=True)
class Extension:
    """A PostgreSQL extension that the service installs, and where.

    Attributes:
        name: name of the extension.
        schema: schema to install it in, or ``None`` for the default. The service creates a missing schema.
        version: version to install, or ``None`` for the server's default.
    """

    name: str
    schema: str | None = None
    version: str | None = None

    @classmethod
    def of(cls, given: AnyExtension) -> Extension:
        """Read any form.

        Raises:
            ValueError: a mapping has no `name`, another key, or a value that is no string.
        """
        if isinstance(given, Extension):
            return given
        if isinstance(given, str):
            return cls(given)
        options: Mapping[str, object] = given  # as a file or a caller without types gives them
        for key, value in options.items():
            if key not in KEYS:
                message = f"an extension has no {key!r}: use {', '.join(KEYS)}"
                raise ValueError(message)
            if not isinstance(value, str) or not value:
                message = f'{key} of an extension must be a string, as in {key} = "…"'
                raise ValueError(message)
        if "name" not in given:
            message = 'an extension needs a name, as in {name = "pgcrypto", schema = "extensions"}'
            raise ValueError(message)
        return cls(**given)

    @classmethod
    def parse(cls, text: str) -> Extension:
        """Read ``NAME[,schema=SCHEMA][,version=VERSION]``.

        Raises:
            ValueError: the text has another form.
        """
        name, *options = text.split(",")
        pairs = [option.partition("=") for option in options]
        if not all(equals for _, equals, _ in pairs) or len({key for key, _, _ in pairs} | {"name"}) <= len(
            pairs
        ):
            message = f"{text!r} is not NAME[,schema=SCHEMA][,version=VERSION]"
            raise ValueError(message)
        return cls.of({"name": name, **{key: value for key, _, value in pairs}})

    def __str__(self) -> str:
        """Return the form that ``parse`` reads."""
        return ",".join([self.name, *(f"{key}={value}" for key, value in self._options.items())])

    @property
    def form(self) -> str | dict[str, str]:
        """The form in requests: the name, or an object if schema or version is set."""
        return {"name": self.name, **self._options} if self._options else self.name

    @property
    def _options(self) -> dict[str, str]:
        given = {"schema": self.schema, "version": self.version}
        return {key: value for key, value in given.items() if value is not None}


AnyExtension: TypeAlias = str | Extension | Mapping[str, str]
"""One extension, in any form."""


def listed_extensions(given: AnyExtension | Iterable[AnyExtension]) -> list[Extension]:
    """Return extensions as a list. One extension is a list of one."""
    every = [given] if isinstance(given, str | Extension | Mapping) else given
    return [Extension.of(one) for one in every]
