from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool

from freshdb.toolkit.errors import InTransaction, SessionEnded, SessionsEntangled, WrongTarget
from freshdb.toolkit.sessions import TestSessionFactory, TestSettings
from tests.toolkit.conftest import Databases
from tests.toolkit.models import SQL, Base, Customer, Order


@pytest.fixture(scope="module")
def postgres_engine(databases: Databases) -> Iterator[Engine]:
    engine = create_engine(databases.clone(SQL).replace("postgresql", "postgresql+psycopg", 1))
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def sqlite_engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(params=["postgres_engine", "sqlite_engine"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An empty database that must be empty again after the test."""
    found: Engine = request.getfixturevalue(request.param)
    yield found
    with Session(found) as session:
        assert count(session) == 0
        assert session.scalar(select(func.count()).select_from(Order)) == 0


@pytest.fixture
def factory(engine: Engine, request: pytest.FixtureRequest) -> Iterator[TestSessionFactory]:
    with TestSessionFactory(engine, test=request.node.nodeid) as made:
        yield made


def count(session: Session) -> int | None:
    return session.scalar(select(func.count()).select_from(Customer))


def add(session: Session, *names: str) -> None:
    session.add_all([Customer(name=name) for name in names])
    session.flush()


def test_committed_rows_are_visible_to_other_sessions_and_removed_afterwards(engine: Engine) -> None:
    with TestSessionFactory(engine) as factory:
        with factory.session_maker() as session:
            add(session, "ann")
            session.commit()
        with factory.session_maker() as other:
            assert count(other) == 1
            other.execute(insert(Customer), [{"name": f"bulk {n}"} for n in range(50)])
            other.execute(update(Customer).values(name=Customer.name + "!"))
            other.commit()
            assert count(other) == 51
    with Session(engine) as outside:
        assert count(outside) == 0


def test_rollback_undoes_only_uncommitted_changes(factory: TestSessionFactory) -> None:
    with factory.session_maker() as session:
        add(session, "ann")
        session.commit()
        add(session, "bob")
        session.rollback()
        assert session.scalars(select(Customer.name)).all() == ["ann"]
        with session.begin_nested():
            add(session, "cid")
        with pytest.raises(IntegrityError), session.begin_nested():
            add(session, "dan", "cid")
        session.commit()
        assert session.scalars(select(Customer.name).order_by(Customer.name)).all() == ["ann", "cid"]


def test_session_can_be_used_after_an_integrity_error_and_a_rollback(factory: TestSessionFactory) -> None:
    with factory.session_maker() as session:
        add(session, "ann")
        session.commit()
        with pytest.raises(IntegrityError) as raised:
            add(session, "bob", "ann")
        session.rollback()
        assert count(session) == 1
        add(session, "bob")
        session.commit()
        assert count(session) == 2
    assert "INSERT INTO customer" in str(raised.value)
    assert f"in the test {factory._test}" in raised.value.__notes__


def test_ddl_is_rolled_back(postgres_engine: Engine) -> None:
    with TestSessionFactory(postgres_engine) as factory, factory.session_maker() as session:
        session.execute(text("CREATE TABLE extra AS SELECT 1 AS one"))
        session.execute(text("ALTER TABLE customer ADD COLUMN age int"))
        session.commit()
        assert session.scalar(text("SELECT one FROM extra")) == 1
    with Session(postgres_engine) as outside:
        assert outside.scalar(text("SELECT to_regclass('extra')")) is None


def test_sessions_can_alternate_if_one_only_reads(factory: TestSessionFactory) -> None:
    reader, writer = factory.session_maker(), factory.session_maker()
    assert count(reader) == 0
    add(writer, "ann")
    writer.commit()
    reader.rollback()
    assert count(reader) == 1, "the rollback of the reader does not undo changes of the writer"
    add(writer, "bob")
    reader.commit()
    writer.rollback()
    assert count(writer) == 1
    reader.close()
    assert count(writer) == 1
    writer.close()


def test_older_session_can_commit_first(factory: TestSessionFactory) -> None:
    older, younger = factory.session_maker(), factory.session_maker()
    add(older, "ann")
    assert count(younger) == 1
    older.commit()
    add(younger, "bob")
    younger.rollback()
    assert count(older) == 1
    older.close()
    younger.close()


def test_older_session_can_roll_back_if_the_younger_has_only_read(factory: TestSessionFactory) -> None:
    older, younger = factory.session_maker(), factory.session_maker()
    add(older, "ann")
    assert count(younger) == 1
    older.rollback()
    assert count(younger) == 0
    add(younger, "bob")
    younger.rollback()
    assert count(younger) == 0
    add(older, "cid")
    older.commit()
    assert count(younger) == 1
    older.close()
    younger.close()


def test_failure_of_a_reading_session_does_not_affect_others(factory: TestSessionFactory) -> None:
    reader, writer = factory.session_maker(), factory.session_maker()
    assert count(reader) == 0
    add(writer, "ann")
    writer.commit()
    with pytest.raises(DBAPIError):
        reader.execute(text("SELECT nonsense"))
    reader.rollback()
    assert count(reader) == 1
    reader.close()
    writer.close()


def test_rollback_of_the_older_of_two_writing_sessions_is_an_error(engine: Engine) -> None:
    with TestSessionFactory(engine, test="entangled") as factory:
        older, younger = factory.session_maker(), factory.session_maker()
        add(older, "ann")
        add(younger, "bob")
        younger.commit()
        with pytest.raises(SessionsEntangled, match="the test entangled wrote alternately"):
            older.rollback()
        assert count(younger) == 2, "nothing is rolled back"


def test_nested_blocks_undo_only_their_changes(factory: TestSessionFactory) -> None:
    with factory.session_maker() as session:
        add(session, "ann")
        session.commit()
        with factory.nested():
            with factory.session_maker() as inner:
                add(inner, "bob")
                inner.commit()
            with factory.nested(), factory.session_maker() as innermost:
                add(innermost, "cid")
                innermost.commit()
                assert count(innermost) == 3
            assert count(session) == 2
        assert count(session) == 1
        add(session, "dan")
        session.commit()
        assert count(session) == 2


def test_rollback_of_a_session_keeps_changes_of_the_connection(
    factory: TestSessionFactory,
) -> None:
    with factory.session_maker() as reader:
        assert count(reader) == 0
        with factory.connection.begin_nested():
            factory.connection.execute(insert(Customer).values(name="ann"))
        reader.rollback()
        assert count(reader) == 1


def test_session_used_after_its_test_is_an_error(engine: Engine) -> None:
    with engine.connect() as connection:
        with TestSessionFactory(connection, test="ended") as factory:
            kept, unused, maker = factory.session_maker(), factory.session_maker(), factory.session_maker
            add(kept, "ann")
        for session in (kept, unused, maker()):
            with pytest.raises(SessionEnded, match="a session of the test ended was used after the test"):
                session.execute(text("DELETE FROM customer"))
        with pytest.raises(SessionEnded):
            factory.session_maker  # noqa: B018
        assert not connection.in_transaction()
        assert connection.scalar(select(func.count()).select_from(Customer)) == 0


def test_error_in_the_block_is_raised_and_changes_are_undone(engine: Engine) -> None:
    def fail() -> None:
        with TestSessionFactory(engine) as factory, factory.session_maker() as session:
            add(session, "ann")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_next_test_is_not_affected_by_a_failed_transaction(engine: Engine) -> None:
    with TestSessionFactory(engine) as factory, pytest.raises(DBAPIError):
        factory.session_maker().execute(text("nonsense"))
    with TestSessionFactory(engine) as factory, factory.session_maker() as session:
        assert count(session) == 0


def test_targets_that_cannot_roll_back_are_refused(engine: Engine, postgres_engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        with pytest.raises(InTransaction), TestSessionFactory(connection):
            pass
    commits = postgres_engine.execution_options(isolation_level="AUTOCOMMIT")
    with pytest.raises(WrongTarget, match="AUTOCOMMIT"), TestSessionFactory(commits):
        pass


def test_settings_apply_only_to_the_test(postgres_engine: Engine) -> None:
    settings = TestSettings(statement_timeout_seconds=12.5, lock_timeout_seconds=3, idle_timeout_seconds=0)
    name = "tests/very/long/" * 5 + "test_it.py::test_é"
    show = text(
        "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), "
        "current_setting('idle_in_transaction_session_timeout'), current_setting('application_name')"
    )
    with postgres_engine.connect() as connection:
        with TestSessionFactory(connection, test=name, settings=settings) as factory:
            shown = tuple(factory.connection.execute(show).one())
        assert shown[:3] == ("12500ms", "3s", "0")
        assert len(shown[3]) == 63
        assert shown[3].endswith("test_it.py::test_?")
        assert tuple(connection.execute(show).one()) == ("0", "0", "0", "")
    with pytest.raises(ValueError, match="lock_timeout_seconds cannot be -1"):
        TestSettings(lock_timeout_seconds=-1)


def test_sessions_have_class_and_options_of_the_applications_maker(engine: Engine) -> None:
    class Own(Session):
        pass

    like = sessionmaker(class_=Own, expire_on_commit=False)
    with TestSessionFactory(engine, like=like) as factory, factory.session_maker() as session:
        assert isinstance(session, Own)
        ann = Customer(name="ann")
        session.add(ann)
        session.commit()
        assert "name" in ann.__dict__, "not expired"
