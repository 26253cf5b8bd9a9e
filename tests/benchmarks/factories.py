"""Section ``factories``: 10,000 valid rows of a domain of six tables, by `freshdb.toolkit.factories`."""

from __future__ import annotations

import asyncio
import time
from statistics import median

import psycopg
from sqlalchemy import Connection, create_engine, text

from freshdb.toolkit.factories import Factories
from freshdb.toolkit.tables import TableMap
from freshdb_service.embedded import EmbeddedPostgres
from tests.benchmarks.results import Findings, Run, Table
from tests.benchmarks.running import DATA_LOCATION, data_directory

GOAL_SECONDS = 2.0
ROUNDS = 9
DOMAIN = """
CREATE TYPE payment_status AS ENUM ('new', 'authorised', 'captured', 'refunded');
CREATE DOMAIN positive AS numeric(12, 2) CHECK (VALUE > 0);
CREATE TABLE currency (
    code char(3) PRIMARY KEY CHECK (code ~ '^[A-Z]{3}$'), digits smallint NOT NULL CHECK (digits IN (0, 2, 3)));
CREATE TABLE customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL UNIQUE CHECK (email LIKE '%@%'),
    first_name varchar(40) NOT NULL, last_name varchar(40) NOT NULL, born_on date CHECK (born_on < DATE '2010-01-01'));
CREATE TABLE merchant (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), company text NOT NULL,
    category text NOT NULL CHECK (category IN ('food', 'travel', 'books')));
CREATE TABLE account (
    id serial PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customer, currency char(3) NOT NULL REFERENCES currency,
    iban varchar(34) NOT NULL UNIQUE, UNIQUE (id, currency));
CREATE TABLE card (
    id serial PRIMARY KEY, account_id int NOT NULL REFERENCES account, digits char(4) NOT NULL CHECK (digits ~ '^[0-9]{4}$'),
    valid_from date NOT NULL, valid_to date NOT NULL, CHECK (valid_from < valid_to));
CREATE TABLE payment (
    id bigserial PRIMARY KEY, account_id int NOT NULL, currency char(3) NOT NULL, card_id int NOT NULL REFERENCES card,
    merchant_id uuid NOT NULL REFERENCES merchant, amount positive NOT NULL, status payment_status NOT NULL,
    refunded_at timestamptz, reference varchar(12) NOT NULL UNIQUE, made_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (account_id, currency) REFERENCES account (id, currency),
    CHECK ((status = 'refunded') = (refunded_at IS NOT NULL)));
"""
SHARES = {"currency": 30, "merchant": 470, "account": 1000, "card": 1500}
TABLES = ("currency", "customer", "merchant", "account", "card", "payment")
PAYMENTS = 10_000 - sum(SHARES.values()) - SHARES["account"]


def measure(run: Run) -> Findings:
    """Generate the rows several times, each time without any cached knowledge of the tables."""
    taken: dict[str, list[float]] = {
        "reading the table map": [],
        "10,000 rows": [],
        "deleting the rows": [],
    }
    with data_directory() as data:
        server = EmbeddedPostgres(data / "bench-postgres")
        dsn = asyncio.run(server.start())
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(DOMAIN.encode())
            engine = create_engine(dsn.replace("://", "+psycopg://", 1))
            for number in range(1 if run.quick else ROUNDS + 1):
                with engine.connect() as connection_:
                    parts = _round(connection_, number)
                if number or run.quick:  # not measured: the first round, which imports modules
                    for part, seconds in zip(taken, parts, strict=True):
                        taken[part].append(seconds)
                    run.calibrate()
            engine.dispose()
        finally:
            asyncio.run(server.stop())
    goals = {"10,000 rows": f"≤ {GOAL_SECONDS:g} s"}
    return Findings(
        settings=[
            (
                "Six tables with keys, unique columns, a composite foreign key, an enum, a domain and 8 CHECKs, two of "
                f"them over several columns. {PAYMENTS} payments among {SHARES['account']} accounts and customers, "
                f"{SHARES['card']} cards, {SHARES['merchant']} merchants and {SHARES['currency']} currencies, "
                "by one call with psycopg."
            ),
            (
                f"Median of {ROUNDS} rounds (smallest to largest), each with new factories. The "
                f"payments are read back. One embedded PostgreSQL, default settings, {DATA_LOCATION}."
            ),
        ],
        tables=[
            Table(
                caption="",
                head=["measurement", "s", "goal"],
                rows=[
                    [part, f"{median(them):.2f} ({min(them):.2f} to {max(them):.2f})", goals.get(part, "")]
                    for part, them in taken.items()
                ],
            )
        ],
        figures={f"{part.replace(' ', '_')}.seconds": median(them) for part, them in taken.items()},
    )


def _round(connection: Connection, seed: int) -> tuple[float, float, float]:
    began = time.perf_counter()
    tables = TableMap.of_connection(connection)
    read = time.perf_counter()
    factories = Factories(connection, seed=seed, tables=tables)
    payments = factories.of("payment")
    for table, among in SHARES.items():
        payments = payments.sharing(table, among=among)
    payments.create_many(PAYMENTS)
    created = time.perf_counter()
    total = sum(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in TABLES)
    if total != 10_000:
        raise RuntimeError(f"{total} rows")
    counted = time.perf_counter()
    factories.clean()
    connection.commit()
    return read - began, created - read, time.perf_counter() - counted
