"""Run schemathesis against a running service: all of its checks, for every call of the OpenAPI document."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests import plain_http
from tests.fuzz.hooks import MAX_SIZE, MIN_READY, SQL, TEMPLATE
from tests.limits import LIMIT_SECONDS

ROOT = Path(__file__).parents[2]
_SECRET = "fuzz-secret"
_BEARER = f"Bearer {_SECRET}"
SETTINGS: dict[str, str | float] = {
    "tokens": f"fuzz:{_SECRET}:admin",  # the first token that is created would close an open service
    "failed_attempts": 1_000_000,
    "default_wait_seconds": 2,
    "max_wait_seconds": 3,
    "default_ttl_seconds": 1,
    "max_ttl_seconds": 2,
    "keep_ttl_seconds": 1,
    "max_batch": 3,
    "unused_template_seconds": 20,
    "min_ready": 1,
}
"""Leases and waits are short, so that databases leased by a thousand calls return in time for the next thousand."""
_GENERATED = re.compile(r"^\s*([\d,]+) generated", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """Result of one run."""

    cases: int
    passed: bool
    output: str


def prepare(url: str) -> None:
    """Create the template that some of the calls lease from, and wait for enough ready databases."""
    with httpx.Client(
        verify=plain_http.NO_CERTIFICATES,
        base_url=url,
        timeout=LIMIT_SECONDS,
        headers={"authorization": _BEARER},
    ) as client:
        body = {"name": TEMPLATE, "sql": list(SQL)}
        while client.post("/v1/templates", json=body).raise_for_status().json()["state"] != "ready":
            continue  # it is being created
        for isolation in ("database", "schema"):
            body = {"template": TEMPLATE, "isolation": isolation}
            while (
                lease := client.post("/v1/leases", json=body)
            ).status_code == httpx.codes.SERVICE_UNAVAILABLE:
                continue  # it is being created
            lease.raise_for_status()
            pool = f"/v1/pools/{lease.json()['pool_id']}"
            client.patch(pool, json={"min_ready": MIN_READY, "max_size": MAX_SIZE}).raise_for_status()
            until = time.monotonic() + LIMIT_SECONDS
            while (
                client.get(pool).json()["databases"].get("ready", 0) < MIN_READY and time.monotonic() < until
            ):
                time.sleep(0.1)


def fuzz(url: str, *, examples: int, seed: int, phases: str) -> Fuzzed:
    """Run at most ``examples`` cases for each call and phase, in one thread, because Hypothesis does not support several."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--no-color"),
        *("--config-file", str(ROOT / "tests/fuzz/schemathesis.toml")),
        *("run", f"{url}/openapi.json", "--checks", "all", "--phases", phases, "--no-shrink"),
        *("--max-examples", str(examples), "--seed", str(seed), "--workers", "1"),
        *("--generation-database", "none", "--header", f"Authorization: {_BEARER}"),
    ]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    generated = _GENERATED.search(output)
    cases = int(generated.group(1).replace(",", "")) if generated else 0
    return Fuzzed(cases, done.returncode == 0, output)
