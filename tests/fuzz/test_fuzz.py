"""A short run of ``make fuzz``, with one seed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.running import SETTINGS, fuzz
from tests.servers import PostgresServer
from tests.services import Service, start_service

SEED = 4
EXAMPLES = 2


@pytest.fixture
def fuzzed(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Service]:
    running = start_service([postgres_18.dsn], service_redis_url, settings=SETTINGS)
    yield running
    assert running.stop() == 0


def test_every_call_keeps_to_the_openapi_document(fuzzed: Service) -> None:
    done = fuzz(fuzzed.url, examples=EXAMPLES, seed=SEED, phases="fuzzing")
    assert done.passed, done.said
    assert done.cases >= 40
    assert "Traceback" not in fuzzed.log
