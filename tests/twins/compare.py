"""The comparison of the twin test: the places where a reused database is not like a fresh one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Final

from tests.twins.observation import Observed, observe
from tests.twins.probes import PROBES, Json, Within

__all__ = ["ABSENT", "Difference", "Observed", "compare", "observe", "to_json"]

ABSENT: Final = "(absent)"
_MOST: Final = 8
"""Maximum differences of one probe. One more has the number of the others."""
_LONGEST: Final = 300
_NO_TOLERANCE: Final[Mapping[str, Within]] = {}


@dataclass(frozen=True, slots=True)
class Difference:
    """One place in the result of a probe where a reused database is not like a fresh one."""

    probe: str
    path: str
    fresh: Json
    reused: Json

    def __str__(self) -> str:
        return f"{self.probe}: {self.path}\n    fresh:  {_text(self.fresh)}\n    reused: {_text(self.reused)}"


def compare(fresh: Observed, reused: Observed) -> list[Difference]:
    """Return the differences in the order of the probes, at most a few for each probe."""
    differences: list[Difference] = []
    for probe in PROBES:
        if probe.name not in fresh.results and probe.name not in reused.results:
            continue
        one = fresh.results.get(probe.name, ABSENT)
        other = reused.results.get(probe.name, ABSENT)
        different = (
            _contents("", one, other) if probe.must_be_empty else _places("", one, other, probe.tolerances)
        )
        places = list(different)
        differences += (Difference(probe.name, *place) for place in places[:_MOST])
        if len(places) > _MOST:
            differences.append(Difference(probe.name, f"{len(places) - _MOST} more places", "…", "…"))
    return differences


def to_json(differences: list[Difference]) -> str:
    """Return differences as JSON."""
    return json.dumps([asdict(one) for one in differences])


_Place = tuple[str, Json, Json]


def _places(path: str, fresh: Json, reused: Json, tolerances: Mapping[str, Within]) -> Iterator[_Place]:
    match fresh, reused:
        case dict(), dict():
            for key in (*fresh, *(key for key in reused if key not in fresh)):
                one, other = fresh.get(key, ABSENT), reused.get(key, ABSENT)
                yield from _places(_below(path, key), one, other, tolerances)
        case list(), list():
            for index in range(max(len(fresh), len(reused))):
                one = fresh[index] if index < len(fresh) else ABSENT
                other = reused[index] if index < len(reused) else ABSENT
                yield from _places(_below(path, str(index)), one, other, tolerances)
        case _:
            if not _equal(path, fresh, reused, tolerances):
                yield path or "result", fresh, reused


def _contents(path: str, fresh: Json, reused: Json) -> Iterator[_Place]:
    """Return everything in results that must be empty, of either side."""
    if isinstance(fresh, dict) and isinstance(reused, dict):
        for key in (*fresh, *(key for key in reused if key not in fresh)):
            yield _below(path, key), fresh.get(key, ABSENT), reused.get(key, ABSENT)
    elif fresh or reused:
        yield path or "result", fresh, reused


def _equal(path: str, fresh: Json, reused: Json, tolerances: Mapping[str, Within]) -> bool:
    if type(fresh) is type(reused) and fresh == reused:
        return True
    if isinstance(fresh, int | float) and isinstance(reused, int | float):
        for pattern, bound in tolerances.items():
            if fnmatchcase(path, pattern):
                return bound.admits(fresh, reused)
        return fresh == reused and isinstance(fresh, bool) is isinstance(reused, bool)
    return False


def _below(path: str, key: str) -> str:
    return f"{path}/{key}" if path else key


def _text(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
