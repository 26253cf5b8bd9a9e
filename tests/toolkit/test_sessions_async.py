"""Async sessions on every driver, and their use by an application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response
from fastapi.middleware import Middleware
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import StaticPool

from freshdb.toolkit.errors import InTransaction, SessionEnded, SessionsEntangled, WrongEventLoop
from freshdb.toolkit.sessions import AsyncTestSessionFactory, TestSettings, as_before
from tests.toolkit.conftest import Databases
from tests.toolkit.models import SQL, Base, Customer


@pytest.fixture(scope="module")
def dsn(databases: Databases) -> str:
    return databases.clone(SQL)


@pytest.fixture(params=["postgresql+asyncpg", "postgresql+psycopg", "sqlite+aiosqlite"])
async def engine(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[AsyncEngine]:
    """An empty database that must be empty again after the test."""
    if request.param.startswith("sqlite"):
        made = create_async_engine(f"{request.param}://", poolclass=StaticPool)
        async with made.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
    else:
        made = create_async_engine(dsn.replace("postgresql", request.param, 1))
    yield made
    async with AsyncSession(made) as session:
        assert await count(session) == 0
    await made.dispose()


async def count(session: AsyncSession) -> int | None:
    return await session.scalar(select(func.count()).select_from(Customer))


async def add(session: AsyncSession, *names: str) -> None:
    session.add_all([Customer(name=name) for name in names])
    await session.flush()


async def test_commits_and_rollbacks_stay_within_the_test(engine: AsyncEngine) -> None:
    async with AsyncTestSessionFactory(engine, test="here") as factory:
        async with factory.session_maker() as session:
            await add(session, "ann")
            await session.commit()
            with pytest.raises(IntegrityError) as raised:
                await add(session, "ann")
            await session.rollback()
            assert await count(session) == 1
        async with factory.nested(), factory.session_maker() as inner:
            await add(inner, "bob")
            await inner.commit()
            assert await count(inner) == 2
        async with factory.session_maker() as session:
            assert await count(session) == 1
    assert "in the test here" in raised.value.__notes__


async def test_two_sessions_can_alternate_until_both_write(engine: AsyncEngine) -> None:
    async with AsyncTestSessionFactory(engine) as factory, AsyncExitStack() as stack:
        reader, writer = [await stack.enter_async_context(factory.session_maker()) for _ in range(2)]
        assert await count(reader) == 0
        await add(writer, "ann")
        await writer.commit()
        await reader.rollback()
        assert await count(reader) == 1
        await add(reader, "bob")
        await add(writer, "cid")
        with pytest.raises(SessionsEntangled):
            await reader.rollback()


async def test_session_used_after_its_test_is_an_error(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        async with AsyncTestSessionFactory(connection) as factory:
            session = factory.session_maker()
            await add(session, "ann")
        with pytest.raises(SessionEnded):
            await count(session)
        assert not connection.in_transaction()
        await connection.execute(text("SELECT 1"))
        with pytest.raises(InTransaction):
            await AsyncTestSessionFactory(connection).__aenter__()


def test_second_event_loop_is_refused(dsn: str) -> None:
    settings = TestSettings(pool_size=1)
    engine = settings.async_engine(dsn, test="loops")

    async def begin() -> tuple[AsyncTestSessionFactory, AsyncSession]:
        factory = await AsyncTestSessionFactory(engine).__aenter__()
        session = factory.session_maker()
        await add(session, "ann")
        return factory, session

    async def end(factory: AsyncTestSessionFactory) -> None:
        await factory.__aexit__()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        factory, session = first.run(begin())
        with pytest.raises(WrongEventLoop, match="a session of its test was used in another event loop"):
            second.run(count(session))
        first.run(end(factory))
        with pytest.raises(WrongEventLoop, match=r"use no pool \(pool_size=0\)"):
            second.run(begin())
        first.run(engine.dispose())


async def test_engine_applies_settings_to_every_connection(dsn: str) -> None:
    settings = TestSettings(statement_timeout_seconds=7, pool_size=2)
    engine = settings.async_engine(dsn, test="it's")
    blocking = settings.engine(dsn, test="it's")
    show = text("SELECT current_setting('statement_timeout'), current_setting('application_name')")
    async with engine.connect() as one, engine.connect() as two:
        for connection in (one, two):
            assert tuple((await connection.execute(show)).one()) == ("7s", "it's")
            await connection.rollback()
            assert tuple((await connection.execute(show)).one()) == ("7s", "it's")
    with blocking.connect() as other:
        assert tuple(other.execute(show).one()) == ("7s", "it's")
    await engine.dispose()
    blocking.dispose()


# An application as users write it


session_maker = async_sessionmaker()


async def a_session() -> AsyncIterator[AsyncSession]:
    async with session_maker() as session:
        yield session


app = FastAPI()


@app.post("/customers/{name}")
async def create(name: str, session: Annotated[AsyncSession, Depends(a_session)]) -> int | None:
    session.add(Customer(name=name))
    await session.commit()
    return await count(session)


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    async with AsyncTestSessionFactory(dsn, like=session_maker) as factory:

        async def a_test_session() -> AsyncIterator[AsyncSession]:
            async with factory.session_maker() as session:
                yield session

        with as_before(app):
            app.dependency_overrides[a_session] = a_test_session

            @app.middleware("http")
            async def mark(request: Request, following: Callable[[Request], Awaitable[Response]]) -> Response:
                response = await following(request)
                response.headers["X-Test"] = "yes"
                return response

            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
                yield made


@pytest.mark.parametrize("turn", [1, 2])
async def test_application_commits_within_the_tests_transaction(client: httpx.AsyncClient, turn: int) -> None:
    del turn
    assert len(app.user_middleware) == 1
    assert len(app.dependency_overrides) == 1
    for number, name in enumerate(["ann", "bob"], 1):
        answer = await client.post(f"/customers/{name}")
        assert (answer.json(), answer.headers["X-Test"]) == (number, "yes")


async def test_application_is_restored_after_the_block() -> None:
    original = Middleware(httpx.ASGITransport)  # type: ignore[arg-type]
    app.user_middleware.append(original)
    with as_before(app):
        app.dependency_overrides[a_session] = a_session
        app.user_middleware.clear()
    assert app.user_middleware.pop() is original
    assert not app.dependency_overrides
    assert not app.user_middleware
