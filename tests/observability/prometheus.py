"""A real Prometheus (Debian's package ``prometheus``) that scrapes a real service."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import create_server
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from tests import plain_http
from tests.limits import LIMIT_SECONDS
from tests.servers import ALL_MAJORS_REQUIRED

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = ROOT / "deploy" / "prometheus" / "freshdb.rules.yml"
RULE_TESTS: Final = RULES.with_name("freshdb.rules.test.yml")
SCRAPE_SECONDS: Final = 1

Labels = Mapping[str, str]


def program(name: str) -> str:
    """Return the path of a program of the package. Without it, skip the test, except in CI, where .ci/run installs it."""
    found = shutil.which(name)
    if found is None:
        missing = f"{name} is not installed: apt-get install prometheus"
        if ALL_MAJORS_REQUIRED and os.geteuid() == 0:
            pytest.fail(f"{missing}; in CI it has to be there, see .ci/run")
        pytest.skip(missing)
    return found


@dataclass(slots=True)
class Prometheus:
    """A running Prometheus."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, directory: Path, targets: Sequence[str]) -> Prometheus:
        """Start it with freshdb's rules, to scrape the services with these URLs."""
        configuration = directory / "prometheus.yml"
        addresses = ", ".join(f"'{urlsplit(url).netloc}'" for url in targets)
        configuration.write_text(
            f"global: {{scrape_interval: {SCRAPE_SECONDS}s, evaluation_interval: {SCRAPE_SECONDS}s}}\n"
            f"rule_files: ['{RULES}']\n"
            f"scrape_configs: [{{job_name: freshdb, static_configs: [{{targets: [{addresses}]}}]}}]\n"
        )
        with create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        log = directory / "prometheus.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        started = cls(f"http://{address}", process, log)
        started.until(started._is_ready, "Prometheus does not start")
        return started

    def stop(self) -> None:
        """Stop it."""
        self.process.terminate()
        try:
            self.process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str, **parameters: str | float) -> Any:  # noqa: ANN401 - JSON of Prometheus
        """Send a request to its API."""
        answer = plain_http.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=LIMIT_SECONDS)
        body = answer.json()
        assert body["status"] == "success", (parameters, body)
        return body["data"]

    def instant(self, query: str) -> list[tuple[Labels, float]]:
        """Return the current result of a query."""
        found = self.get("query", query=query)
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    def values(self, query: str, seconds: float = 60.0) -> list[float]:
        """Return the finite values of a query up to now."""
        now = time.time()
        found = self.get("query_range", query=query, start=now - seconds, end=now, step=SCRAPE_SECONDS)
        values = [float(value) for series in found["result"] for _, value in series["values"]]
        return [value for value in values if math.isfinite(value)]

    def until(self, holds: Callable[[], object], what: str, seconds: float = LIMIT_SECONDS) -> None:
        """Wait until a condition is true."""
        end = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, f"{what}\n{self.log.read_text()[-2000:]}"
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            return plain_http.get(f"{self.url}/-/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
