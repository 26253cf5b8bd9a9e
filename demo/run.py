"""The demo: schemas of real projects, an example pytest suite, and the time to get a clean database.

Starts the embedded service, or uses the one that is running. Registers templates from the schemas of other projects, leases
them with both isolations, runs ``demo/suite`` with the pytest plugin under ``-n 2`` and prints one table. The exit status is
1 if a result differs from the expected one.
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
    in_sequence: Sequence[float] = ()
    refusal: str = ""


def main() -> int:
    with step("the embedded service: PostgreSQL, Redis and freshdb"):
        url = freshdb.ensure_service()
    with freshdb.Client(url) as client:
        started_at = dt.datetime.now(dt.UTC)
        templates = [
            procrastinate(client),
            contrib_apps(client),
            procrastinate_in_own_schema(client),
        ]
        rows = [lease(client, template, isolation) for template in templates for isolation in ISOLATIONS]
        tests_pass = run_suite(url)
        leases = count_leases(client, started_at)
    print_table(rows, leases)
    print(f"\nThe service listens on {url} and keeps running for the next run. To stop it: freshdb stop")
    refused = [row.template for row in rows if row.refusal]
    as_expected = refused == ["procrastinate-own-schema"]
    if not as_expected:
        print(f"\nerror: {refused} were refused; expected only procrastinate-own-schema", file=sys.stderr)
    return 0 if tests_pass and as_expected else 1


# The templates


def procrastinate(client: Client) -> Template:
    """Procrastinate's schema, from the SQL in its package. The service executes it."""
    with step("template procrastinate, from the package's own schema.sql"):
        return client.ensure_sql("procrastinate", [schema_of_procrastinate()])


def procrastinate_in_own_schema(client: Client) -> Template:
    """The same SQL in a schema beside ``public``, as its documentation suggests for shared databases."""
    script = f"CREATE SCHEMA jobs;\nSET search_path TO jobs;\n{schema_of_procrastinate()}"
    with step("template procrastinate-own-schema, the same SQL in its own schema"):
        return client.ensure_sql("procrastinate-own-schema", [script])


def schema_of_procrastinate() -> str:
    return importlib.resources.files("procrastinate").joinpath("sql/schema.sql").read_text(encoding="utf-8")


def contrib_apps(client: Client) -> Template:
    """Django's contrib apps. The demo fills the database of the build by Django's ``migrate``."""
    settings = (DEMO / "django_settings.py").read_bytes()
    fingerprint = hashlib.sha256(django.get_version().encode() + settings).hexdigest()
    with step("template django, by django-admin migrate"):
        return client.build("django", fingerprint, migrate)


def migrate(grant: BuildGrant) -> None:
    command = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
    subprocess.run(command, check=True, cwd=DEMO, env=django_environment() | grant.env())


def django_environment() -> dict[str, str]:
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "django_settings"}


# Leases


def lease(client: Client, template: Template, isolation: Isolation) -> Row:
    """Measure leases without a pause between them, then leases when a database is ready."""
    with step(f"{2 * ROUNDS} leases of {template.name}, isolation {isolation}"):
        try:
            in_sequence = [time_lease(client, template, isolation) for _ in range(ROUNDS)]
        except freshdb.IsolationUnsupported as refusal:
            return Row(template.name, isolation, refusal="; ".join(refusal.reasons))
        ready = []
        for _ in range(ROUNDS):
            wait_until_ready(client, template, isolation)
            ready.append(time_lease(client, template, isolation))
    return Row(template.name, isolation, ready, in_sequence)


def wait_until_ready(client: Client, template: Template, isolation: Isolation) -> None:
    """Wait until the pool has a ready database."""
    while True:
        for pool in client.pools():
            matches = pool.template_id == template.id and pool.isolation == isolation
            if matches and pool.databases.get("ready", 0) > 0:
                return
        time.sleep(0.01)


def time_lease(client: Client, template: Template, isolation: Isolation) -> float:
    """Return the seconds from the acquire to the result of the first query. Then leave a new table behind."""
    start = time.perf_counter()
    with (
        client.lease(template.reference, isolation=isolation, holder={"name": "demo"}) as database,
        psycopg.connect(database.url) as connection,
    ):
        clean = connection.execute("SELECT to_regclass('leftover') IS NULL").fetchone()
        seconds = time.perf_counter() - start
        connection.execute("CREATE TABLE leftover (id int)")
    if clean != (True,):
        raise SystemExit(f"error: {template.reference} ({isolation}) was not clean")
    return seconds


def run_suite(url: str) -> bool:
    """Run the example suite with two workers, and show the output of pytest."""
    print("· the example suite: pytest -n 2 demo/suite", flush=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "2",
        "--dist=loadscope",  # tests of one class depend on each other, so one worker runs them
        "-p",
        "no:cacheprovider",
        f"--freshdb-url={url}",
        ".",
    ]
    return subprocess.run(command, check=False, cwd=DEMO / "suite", env=django_environment()).returncode == 0


def count_leases(client: Client, since: dt.datetime) -> dict[tuple[str, str], int]:
    """Return the number of leases since then by template and isolation. All of them have ended."""
    counts: dict[tuple[str, str], int] = {}
    for granted in client.leases(state="released"):
        if granted.granted_at >= since:
            key = (granted.template.partition("@")[0], granted.isolation)
            counts[key] = counts.get(key, 0) + 1
    return counts


# Output


def print_table(rows: Sequence[Row], leases: dict[tuple[str, str], int]) -> None:
    form = "{:26}{:11}{:>8}{:>11}{:>12}{:>11}"
    print(f"\n{'seconds per clean database':>79}")
    print(form.format("template", "isolation", "leases", "ready", "in sequence", "slowest"))
    for row in rows:
        count = leases.get((row.template, row.isolation), 0)
        print(form.format(row.template, row.isolation, count, *figures(row)))
    print(
        "\nleases: leases of the measurements and of the example suite"
        "\nseconds: from the acquire to the result of the first query. ready: median of "
        f"{ROUNDS} when a database\n  was ready. in sequence, slowest: median and maximum of {ROUNDS} by one caller "
        "without a pause, each\n  released with a new table in it"
    )
    for row in rows:
        if row.refusal:
            print(f"refused: {row.template} with isolation {row.isolation}: {row.refusal}")


def figures(row: Row) -> tuple[str, str, str]:
    if row.refusal:
        return "refused", "", ""
    median = statistics.median
    return f"{median(row.ready):.4f}", f"{median(row.in_sequence):.4f}", f"{max(row.in_sequence):.4f}"


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print the name of a step, its progress, and its duration."""
    print(f"· {name}", flush=True)
    start = time.monotonic()
    ended = threading.Event()

    def show_progress() -> None:
        while not ended.wait(PROGRESS_SECONDS):
            print(f"  … {time.monotonic() - start:.0f} s", flush=True)

    thread = threading.Thread(target=show_progress, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    print(f"  {time.monotonic() - start:.2f} s", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (freshdb.FreshdbError, subprocess.CalledProcessError) as failure:
        sys.exit(f"error: {failure}")
