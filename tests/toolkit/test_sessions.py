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
    """Empty, and afterwards still empty."""
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


def test_what_is_committed_is_seen_by_others_and_gone_afterwards(engine: Engine) -> None:
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


def test_a_rollback_undoes_what_was_not_committed(factory: TestSessionFactory) -> None:
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


def test_an_integrity_error_in_the_middle_costs_no_more_than_a_rollback(factory: TestSessionFactory) -> None:
    with factory.session_maker() as session:
        add(session, "ann")
        session.commit()
        with pytest.raises(IntegrityError) as told:
            add(session, "bob", "ann")
        session.rollback()
        assert count(session) == 1
        add(session, "bob")
        session.commit()
        assert count(session) == 2
    assert "INSERT INTO customer" in str(told.value)
    assert f"in the test {factory._test}" in told.value.__notes__


def test_definitions_are_undone_too(postgres_engine: Engine) -> None:
    with TestSessionFactory(postgres_engine) as factory, factory.session_maker() as session:
        session.execute(text("CREATE TABLE extra AS SELECT 1 AS one"))
        session.execute(text("ALTER TABLE customer ADD COLUMN age int"))
        session.commit()
        assert session.scalar(text("SELECT one FROM extra")) == 1
    with Session(postgres_engine) as outside:
        assert outside.scalar(text("SELECT to_regclass('extra')")) is None


def test_sessions_may_take_turns_when_one_only_reads(factory: TestSessionFactory) -> None:
    reader, writer = factory.session_maker(), factory.session_maker()
    assert count(reader) == 0
    add(writer, "ann")
    writer.commit()
    reader.rollback()
    assert count(reader) == 1, "the reader's rollback has undone nothing of the writer's"
    add(writer, "bob")
    reader.commit()
    writer.rollback()
    assert count(writer) == 1
    reader.close()
    assert count(writer) == 1
    writer.close()


def test_the_older_session_may_commit_first(factory: TestSessionFactory) -> None:
    older, younger = factory.session_maker(), factory.session_maker()
    add(older, "ann")
    assert count(younger) == 1
    older.commit()
    add(younger, "bob")
    younger.rollback()
    assert count(older) == 1
    older.close()
    younger.close()


def test_the_older_session_may_roll_back_while_the_younger_has_only_read(factory: TestSessionFactory) -> None:
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


def test_one_who_read_first_can_fail_later_without_harm_to_others(factory: TestSessionFactory) -> None:
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


def test_two_who_wrote_in_turn_are_told_when_the_older_rolls_back(engine: Engine) -> None:
    with TestSessionFactory(engine, test="entangled") as factory:
        older, younger = factory.session_maker(), factory.session_maker()
        add(older, "ann")
        add(younger, "bob")
        younger.commit()
        with pytest.raises(SessionsEntangled, match="the test entangled wrote in turn"):
            older.rollback()
        assert count(younger) == 2, "nothing was done"


def test_nested_scopes_undo_their_own(factory: TestSessionFactory) -> None:
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


def test_what_is_written_beside_the_sessions_is_not_lost_to_their_rollbacks(
    factory: TestSessionFactory,
) -> None:
    with factory.session_maker() as reader:
        assert count(reader) == 0
        with factory.connection.begin_nested():
            factory.connection.execute(insert(Customer).values(name="ann"))
        reader.rollback()
        assert count(reader) == 1


def test_a_session_used_after_its_test_reaches_nothing(engine: Engine) -> None:
    with engine.connect() as connection:
        with TestSessionFactory(connection, test="over") as factory:
            kept, unused, maker = factory.session_maker(), factory.session_maker(), factory.session_maker
            add(kept, "ann")
        for session in (kept, unused, maker()):
            with pytest.raises(SessionEnded, match="a session of the test over was used after it"):
                session.execute(text("DELETE FROM customer"))
        with pytest.raises(SessionEnded):
            factory.session_maker  # noqa: B018
        assert not connection.in_transaction()
        assert connection.scalar(select(func.count()).select_from(Customer)) == 0


def test_an_error_in_the_test_passes_through_and_everything_is_undone(engine: Engine) -> None:
    def fail() -> None:
        with TestSessionFactory(engine) as factory, factory.session_maker() as session:
            add(session, "ann")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_it_leaves_a_broken_transaction_behind_it(engine: Engine) -> None:
    with TestSessionFactory(engine) as factory, pytest.raises(DBAPIError):
        factory.session_maker().execute(text("nonsense"))
    with TestSessionFactory(engine) as factory, factory.session_maker() as session:
        assert count(session) == 0


def test_targets_that_cannot_be_rolled_back_are_refused(engine: Engine, postgres_engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        with pytest.raises(InTransaction), TestSessionFactory(connection):
            pass
    commits = postgres_engine.execution_options(isolation_level="AUTOCOMMIT")
    with pytest.raises(WrongTarget, match="AUTOCOMMIT"), TestSessionFactory(commits):
        pass


def test_settings_hold_for_the_test_alone(postgres_engine: Engine) -> None:
    settings = TestSettings(statement_timeout_seconds=12.5, lock_timeout_seconds=3, idle_timeout_seconds=0)
    name = "tests/very/long/" * 5 + "test_it.py::test_é"
    show = text(
        "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), "
        "current_setting('idle_in_transaction_session_timeout'), current_setting('application_name')"
    )
    with postgres_engine.connect() as connection:
        with TestSessionFactory(connection, test=name, settings=settings) as factory:
            told = tuple(factory.connection.execute(show).one())
        assert told[:3] == ("12500ms", "3s", "0")
        assert len(told[3]) == 63
        assert told[3].endswith("test_it.py::test_?")
        assert tuple(connection.execute(show).one()) == ("0", "0", "0", "")
    with pytest.raises(ValueError, match="lock_timeout_seconds cannot be -1"):
        TestSettings(lock_timeout_seconds=-1)


def test_an_applications_own_maker_is_imitated(engine: Engine) -> None:
    class Own(Session):
        pass

    like = sessionmaker(class_=Own, expire_on_commit=False)
    with TestSessionFactory(engine, like=like) as factory, factory.session_maker() as session:
        assert isinstance(session, Own)
        ann = Customer(name="ann")
        session.add(ann)
        session.commit()
        assert "name" in ann.__dict__, "not expired"
