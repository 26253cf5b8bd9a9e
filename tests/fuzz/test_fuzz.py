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
def fuzzed_service(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Service]:
    running = start_service([postgres_18.dsn], service_redis_url, settings=SETTINGS)
    yield running
    assert running.stop() == 0


def test_every_call_conforms_to_the_openapi_document(fuzzed_service: Service) -> None:
    done = fuzz(fuzzed_service.url, examples=EXAMPLES, seed=SEED, phases="fuzzing")
    assert done.passed, done.output
    assert done.cases >= 40
    assert "Traceback" not in fuzzed_service.log
