"""Generated values for one column, by its checks, its name (for text), its type and its limits.

The values are candidates: they fit the type, and PostgreSQL decides whether they satisfy the checks.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network
from random import Random
from typing import Final
from uuid import UUID

from faker import Faker
from rstr import Rstr

from freshdb.toolkit.factories.catalog import Check, Column

Generator = Callable[[], object]

_NOW: Final = datetime(2025, 1, 1, tzinfo=UTC)
"""Generated times are near this constant, so that a seed gives the same rows on every day."""
_YEAR_SECONDS: Final = 365 * 24 * 3600
_MAX_BASES: Final = 100
_MAX_ATTEMPTS: Final = 20
_WIDTH: Final = 1000
_METHODS: Final[Sequence[tuple[str, str]]] = (
    (r"e?mail", "safe_email"),
    (r"first_?name|given_?name|forename", "first_name"),
    (r"last_?name|family_?name|surname", "last_name"),
    (r"user_?name|login|nick(name)?|handle", "user_name"),
    (r"company|employer|supplier|vendor|merchant|organi[sz]ation", "company"),
    (r"country_?code", "country_code"),
    (r"country", "country"),
    (r"currency(_?code)?", "currency_code"),
    (r"city|town", "city"),
    (r"street|address(_?line)?", "street_address"),
    (r"(post(al)?|zip)_?code|zip", "postcode"),
    (r"phone|mobile|fax", "phone_number"),
    (r"iban", "iban"),
    (r"bic|swift", "swift"),
    (r"url|website|link|homepage", "url"),
    (r"ip(_?address)?", "ipv4"),
    (r"colou?r", "color_name"),
    (r"locale|language", "language_code"),
    (r"time_?zone|tz", "timezone"),
    (r"job|profession|occupation", "job"),
    (r"file_?name|file|path", "file_name"),
    (r"title|subject|headline", "catch_phrase"),
    (r"description|notes?|comment|body|message|reason|text", "sentence"),
    (r"(full_?)?name|author|owner|holder|contact", "name"),
)
_CODE_NAME: Final = re.compile(r"(^|_)(code|sku|number|no|ref|reference|key|token|hash|barcode|ean)$")
_LITERAL: Final = re.compile(r"'((?:[^']|'')*)'")
_MATCHES: Final = re.compile(r" (~|~~) '((?:[^']|'')*)'")
_NUMBER: Final = r"\(?'?(-?\d+(?:\.\d+)?)'?\)?"
_TEXTS: Final = frozenset({"text", "character varying", "character", "citext", "name"})
_SIZES: Final = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}


class Values:
    """Candidates for a column, generated from a seed.

    Args:
        column: column of the values.
        checks: CHECK constraints on this column only.
        seed: seed of the values.
        faker: generator of realistic text, which gets a seed for each draw.
    """

    def __init__(self, column: Column, checks: Sequence[Check], seed: str, faker: Faker) -> None:
        self.column = column
        self._random = Random(seed)  # noqa: S311 - test data
        self._faker = faker
        self._seed = seed
        self._draws = 0
        self._checks = " AND ".join(check.expression for check in checks)
        self._distinct_count = 0
        self._bases: list[str] = []
        self._generate = self._generator()

    @property
    def possible(self) -> bool:
        """True if values of this type can be generated."""
        return self._generate is not None

    def draw(self, number: int) -> list[object]:
        """Return `number` candidates, some of which may be equal."""
        self._reseed()
        return [] if self._generate is None else [self._generate() for _ in range(number)]

    def draw_distinct(self, number: int) -> list[object]:
        """Return `number` candidates that differ from each other and from all earlier ones, as far as the type allows."""
        self._reseed()
        return [] if self._generate is None else [self._next_distinct(self._generate) for _ in range(number)]

    def _reseed(self) -> None:
        self._draws += 1
        self._faker.seed_instance(f"{self._seed}/{self._draws}")

    # Kinds of values

    def _generator(self) -> Generator | None:
        random, column = self._random, self.column
        if column.type.endswith("[]"):
            inner = Column(
                column.name, "", column.type[:-2], column.limits, column.labels, False, False, None
            )
            element = Values(inner, (), random.random().hex(), self._faker)._generate
            return None if element is None else lambda: [element() for _ in range(random.randint(1, 3))]
        if column.labels:
            return lambda: random.choice(column.labels)
        allowed = self._allowed()
        if allowed:
            return lambda: random.choice(allowed)
        if column.type in _TEXTS:
            return self._text()
        generators: dict[str, Generator] = {
            "boolean": lambda: bool(random.getrandbits(1)),
            "uuid": lambda: UUID(int=random.getrandbits(128), version=4),
            "date": lambda: self._instant().date(),
            "timestamp with time zone": self._instant,
            "timestamp without time zone": lambda: self._instant().replace(tzinfo=None),
            "time without time zone": lambda: self._instant().time(),
            "time with time zone": lambda: self._instant().timetz(),
            "interval": lambda: timedelta(minutes=random.randint(1, 10_000)),
            "json": lambda: {self._faker.word(): self._faker.word()},
            "jsonb": lambda: {self._faker.word(): self._faker.word()},
            "bytea": lambda: random.randbytes(8),
            "inet": lambda: IPv4Address(0x0A000000 + random.getrandbits(24)),
            "cidr": lambda: IPv4Network((0x0A000000 + (random.getrandbits(16) << 8), 24)),
            "real": lambda: round(random.uniform(*self._bounds(0, 1000)), 3),
            "double precision": lambda: round(random.uniform(*self._bounds(0, 1000)), 3),
            "numeric": self._decimal,
            "money": self._decimal,
        }
        if column.type in _SIZES:
            low, high = (int(one) for one in self._bounds(1, 1000))
            return lambda: random.randint(low, min(high, _SIZES[column.type]))
        return generators.get(column.type)

    def _next_distinct(self, generate: Generator) -> object:
        number, self._distinct_count = self._distinct_count, self._distinct_count + 1
        kind = self.column.type
        allowed = self.column.labels or self._allowed()
        if allowed and not kind.endswith("[]"):
            return allowed[number % len(allowed)]
        if kind in _SIZES:
            return int(self._bounds(1, _SIZES[kind])[0]) + number
        if kind == "numeric":
            low, _ = self._bounds(1, 10**9)
            return Decimal(str(low)) + number
        if kind == "date":
            return _NOW.date() + timedelta(days=number)
        if kind.startswith("timestamp"):
            instant = _NOW + timedelta(seconds=number)
            return instant if kind.endswith("with time zone") else instant.replace(tzinfo=None)
        if kind not in _TEXTS or self._pattern() is not None:
            return generate()
        if len(self._bases) < _MAX_BASES:
            self._bases.append(str(generate()))
        name, at, rest = self._bases[number % len(self._bases)].partition("@")
        longest = self._lengths()[1]
        tail = f"{'.' if at else ' ' if ' ' in name else '-'}{number}{at}{rest}"
        if len(tail) * 2 > longest:
            return _letters(number, self._lengths())
        return name[: longest - len(tail)] + tail

    def _text(self) -> Generator:
        pattern, (shortest, longest) = self._pattern(), self._lengths()
        random = self._random
        name = self.column.name.lower()
        method = next((one for pattern, one in _METHODS if re.search(rf"(^|_)({pattern})(_|$)", name)), None)

        def from_name() -> str:
            if method is not None:
                text = str(getattr(self._faker, method)())
            elif _CODE_NAME.search(name):
                text = self._faker.bothify("???-#####").upper()
            else:
                text = " ".join(self._faker.words(2))
            text = text[:longest].rstrip() or text[:longest]
            return text + "".join(random.choices(string.ascii_lowercase, k=max(0, shortest - len(text))))

        if pattern is None:
            return from_name
        strings = Rstr(random)

        def from_pattern() -> str:
            text = ""
            for _ in range(_MAX_ATTEMPTS):
                text = str(strings.xeger(pattern))
                if shortest <= len(text) <= longest:
                    break
            return text[:longest]

        if method is None:
            return from_pattern
        return lambda: from_name() if random.getrandbits(1) else from_pattern()

    def _decimal(self) -> Decimal:
        precision, scale = (*self.column.limits, 0)[:2] if self.column.limits else (12, 2)
        unit = Decimal(1).scaleb(-scale)
        most = float(10 ** (precision - scale) - unit)
        low, high = self._bounds(min(1.0, most / 2), min(1000.0, most))
        return Decimal(str(self._random.uniform(low, min(high, most)))).quantize(unit)

    def _instant(self) -> datetime:
        name = self.column.name.lower()
        years = 20 + self._random.randrange(50) if re.search("birth|born", name) else 0
        times = [
            datetime.fromisoformat(one)
            for one in _LITERAL.findall(self._checks)
            if re.match(r"\d{4}-\d\d-\d\d", one)
        ]
        if times:  # use times near those of the checks and partitions
            near = self._random.choice(times)
            near = near if near.tzinfo else near.replace(tzinfo=UTC)
            return near + timedelta(
                days=self._random.choice((0, 1, -1, 10, -10, 1000, -1000)) * self._random.random()
            )
        return _NOW - timedelta(days=365 * years, seconds=self._random.randrange(_YEAR_SECONDS))

    # Limits by the checks

    def _allowed(self) -> list[object]:
        """Return the values of an ``IN`` list or an equality, if the checks have one."""
        if self.column.type in _TEXTS and re.search(r"= (ANY|')", self._checks):
            return list(dict.fromkeys(one.replace("''", "'") for one in _LITERAL.findall(self._checks)))
        numbers = re.search(r"ANY \(+ARRAY\[([^\]]+)\]", self._checks) if self.column.type in _SIZES else None
        return [int(one) for one in re.findall(r"-?\d+", numbers.group(1))] if numbers else []

    def _bounds(self, low: float, high: float) -> tuple[float, float]:
        """Return the range of comparisons with numbers, or the given range without such comparisons."""
        lowest, highest = None, None
        step = 1 if self.column.type in _SIZES else Decimal("0.01")
        checks = re.sub(r"::[a-z ]+(\([\d,]+\))?", "", self._checks)
        name = rf'\(?"?{re.escape(self.column.name)}"?\)?'
        for sign, value in re.findall(rf"{name} (>=|>|<=|<) {_NUMBER}", checks):
            lowest, highest = _narrow(lowest, highest, sign, value, step)
        reversed_signs = {">": "<", "<": ">", ">=": "<=", "<=": ">="}
        for value, sign in re.findall(rf"{_NUMBER} (>=|>|<=|<) {name}", checks):
            lowest, highest = _narrow(lowest, highest, reversed_signs[sign], value, step)
        if lowest is None and highest is None:
            return low, high
        if lowest is None:
            high = float(highest or 0)
            return (low if low < high else high - _WIDTH), high
        if highest is None:
            return float(lowest), max(high, float(lowest) + _WIDTH)
        if lowest > highest:  # alternatives (OR): use values near both
            return float(highest) - _WIDTH, float(lowest) + _WIDTH
        return float(lowest), float(highest)

    def _lengths(self) -> tuple[int, int]:
        shortest, longest = 0, self.column.limits[0] if self.column.limits else 10_000
        for sign, value in re.findall(r"length\([^<>=]+ (>=|>|<=|<|=) (\d+)", self._checks):
            number = int(value)
            if sign in {">=", ">", "="}:
                shortest = max(shortest, number + (sign == ">"))
            if sign in {"<=", "<", "="}:
                longest = min(longest, number - (sign == "<"))
        return shortest, longest

    def _pattern(self) -> str | None:
        found = _MATCHES.search(self._checks)
        if found is None:
            return None
        pattern = found.group(2).replace("''", "'")
        if found.group(1) == "~":
            return pattern
        return "".join({"%": "[a-z]{1,8}", "_": "[a-z]"}.get(one, re.escape(one)) for one in pattern)


def _narrow(
    low: Decimal | None, high: Decimal | None, sign: str, text: str, step: Decimal | int
) -> tuple[Decimal | None, Decimal | None]:
    value = Decimal(text)
    if sign.startswith(">"):
        value += step if sign == ">" else 0
        return (value if low is None else max(low, value)), high
    value -= step if sign == "<" else 0
    return low, (value if high is None else min(high, value))


def _letters(number: int, lengths: tuple[int, int]) -> str:
    text = ""
    while number or not text:
        number, digit = divmod(number, 26)
        text = string.ascii_uppercase[digit] + text
    return text.rjust(min(lengths[1], max(lengths[0], 1)), "A")[-lengths[1] :]
