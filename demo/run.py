"""The demo: real schemas, an example pytest suite, and how long a clean database takes.

Starts the embedded service (or finds the one that is running), registers templates from schemas that nobody
here wrote, leases them both ways, runs ``demo/suite`` with the pytest plugin under ``-n 2`` and prints one
table. Exits with 1 if anything was not as it should be.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.resources
import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import django
import psycopg

import freshdb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from freshdb import BuildGrant, Client, Template
    from freshdb.models import Isolation

DEMO: Final = Path(__file__).resolve().parent
ISOLATIONS: Final[tuple[Isolation, ...]] = ("database", "schema")
ROUNDS: Final = 10
PROGRESS_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Row:
    """One line of the table: a template leased with one isolation."""

    template: str
    isolation: Isolation
    ready: Sequence[float] = ()
    in_a_row: Sequence[float] = ()
    refusal: str = ""


def main() -> int:
    with step("the embedded service: PostgreSQL, Redis and freshdb"):
        url = freshdb.ensure_service()
    with freshdb.Client(url) as client:
        started_at = dt.datetime.now(dt.UTC)
        templates = [
            procrastinate(client),
            contrib_apps(client),
            procrastinate_in_a_schema_of_its_own(client),
        ]
        rows = [lease(client, template, isolation) for template in templates for isolation in ISOLATIONS]
        tests_pass = run_suite(url)
        leases = count_leases(client, started_at)
    print_table(rows, leases)
    print(f"\nThe service listens on {url} and stays warm for the next run. To stop it: freshdb stop")
    refused = [row.template for row in rows if row.refusal]
    as_expected = refused == ["procrastinate-own-schema"]
    if not as_expected:
        print(f"\nerror: refused was {refused}, expected only procrastinate-own-schema", file=sys.stderr)
    return 0 if tests_pass and as_expected else 1


# The templates


def procrastinate(client: Client) -> Template:
    """Procrastinate's schema, from the SQL in its package; the service runs it."""
    with step("template procrastinate, from the package's own schema.sql"):
        return client.ensure_sql("procrastinate", [schema_of_procrastinate()])


def procrastinate_in_a_schema_of_its_own(client: Client) -> Template:
    """The same in a schema beside ``public``, as its documentation suggests for shared databases."""
    script = f"CREATE SCHEMA jobs;\nSET search_path TO jobs;\n{schema_of_procrastinate()}"
    with step("template procrastinate-own-schema, the same SQL in a schema of its own"):
        return client.ensure_sql("procrastinate-own-schema", [script])


def schema_of_procrastinate() -> str:
    return importlib.resources.files("procrastinate").joinpath("sql/schema.sql").read_text(encoding="utf-8")


def contrib_apps(client: Client) -> Template:
    """Django's contrib apps; we fill the build's database with Django's own ``migrate``."""
    settings = (DEMO / "django_settings.py").read_bytes()
    fingerprint = hashlib.sha256(django.get_version().encode() + settings).hexdigest()
    with step("template django, by django-admin migrate"):
        return client.build("django", fingerprint, migrate)


def migrate(grant: BuildGrant) -> None:
    command = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
    subprocess.run(command, check=True, cwd=DEMO, env=django_environment() | grant.env())


def django_environment() -> dict[str, str]:
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "django_settings"}


# What is done with them


def lease(client: Client, template: Template, isolation: Isolation) -> Row:
    """Use clean databases one after the other, as fast as one caller can; then each when some are ready."""
    with step(f"{2 * ROUNDS} leases of {template.name}, isolation {isolation}"):
        try:
            in_a_row = [use_one(client, template, isolation) for _ in range(ROUNDS)]
        except freshdb.IsolationUnsupported as refusal:
            return Row(template.name, isolation, refusal="; ".join(refusal.reasons))
        ready = []
        for _ in range(ROUNDS):
            wait_until_ready(client, template, isolation)
            ready.append(use_one(client, template, isolation))
    return Row(template.name, isolation, ready, in_a_row)


def wait_until_ready(client: Client, template: Template, isolation: Isolation) -> None:
    """Wait until the pool has one."""
    while True:
        for pool in client.pools():
            mine = pool.template_id == template.id and pool.isolation == isolation
            if mine and pool.databases.get("ready", 0) > 0:
                return
        time.sleep(0.01)


def use_one(client: Client, template: Template, isolation: Isolation) -> float:
    """Seconds from asking for a database to the answer of its first query; then a table is made and left."""
    start = time.perf_counter()
    with (
        client.lease(template.reference, isolation=isolation, holder={"name": "demo"}) as database,
        psycopg.connect(database.url) as connection,
    ):
        clean = connection.execute("SELECT to_regclass('rubbish') IS NULL").fetchone()
        seconds = time.perf_counter() - start
        connection.execute("CREATE TABLE rubbish (id int)")
    if clean != (True,):
        raise SystemExit(f"error: {template.reference} ({isolation}) was not clean")
    return seconds


def run_suite(url: str) -> bool:
    """Run the example suite with two workers; its output is pytest's own."""
    print("· the example suite: pytest -n 2 demo/suite", flush=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "2",
        "--dist=loadscope",  # tests of one class build on each other: they stay with one worker
        "-p",
        "no:cacheprovider",
        f"--freshdb-url={url}",
        ".",
    ]
    return subprocess.run(command, check=False, cwd=DEMO / "suite", env=django_environment()).returncode == 0


def count_leases(client: Client, since: dt.datetime) -> dict[tuple[str, str], int]:
    """How many leases were granted since, for each template's name and isolation; all are over by now."""
    counts: dict[tuple[str, str], int] = {}
    for granted in client.leases(state="released"):
        if granted.granted_at >= since:
            key = (granted.template.partition("@")[0], granted.isolation)
            counts[key] = counts.get(key, 0) + 1
    return counts


# What is printed


def print_table(rows: Sequence[Row], leases: dict[tuple[str, str], int]) -> None:
    form = "{:26}{:11}{:>8}{:>11}{:>11}{:>11}"
    print(f"\n{'seconds per clean database':>78}")
    print(form.format("template", "isolation", "leases", "ready", "in a row", "slowest"))
    for row in rows:
        count = leases.get((row.template, row.isolation), 0)
        print(form.format(row.template, row.isolation, count, *figures(row)))
    print(
        "\nleases: those measured here, and the example suite's"
        "\nseconds: from asking for a database to the answer of its first query. ready: the median of "
        f"{ROUNDS}, when\n  one was ready. in a row, slowest: the median and the slowest of {ROUNDS} by one caller, "
        "each returned\n  with a new table in it, and no time left between to prepare the next"
    )
    for row in rows:
        if row.refusal:
            print(f"refused: {row.template} with isolation {row.isolation}: {row.refusal}")


def figures(row: Row) -> tuple[str, str, str]:
    if row.refusal:
        return "refused", "", ""
    median = statistics.median
    return f"{median(row.ready):.4f}", f"{median(row.in_a_row):.4f}", f"{max(row.in_a_row):.4f}"


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what begins, that it still goes on, and how long it took."""
    print(f"· {what}", flush=True)
    start = time.monotonic()
    over = threading.Event()

    def tell() -> None:
        while not over.wait(PROGRESS_SECONDS):
            print(f"  … {time.monotonic() - start:.0f} s", flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
    print(f"  {time.monotonic() - start:.2f} s", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (freshdb.FreshdbError, subprocess.CalledProcessError) as failure:
        sys.exit(f"error: {failure}")
