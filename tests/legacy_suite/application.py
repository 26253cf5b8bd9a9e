"""The application that the suite tests: 30 tables, two of them in a circle of foreign keys, and a trigger that sums up.

Run as a program, it creates the schema in ``DATABASE_URL``, for a template.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import Engine, ForeignKey, MetaData, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import Column, Table
from sqlalchemy.types import BigInteger, Text

OTHER_TABLES = 26

FUNCTION = """
CREATE OR REPLACE FUNCTION add_to_spent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE customer SET spent = spent + NEW.amount WHERE id = NEW.customer_id;
    RETURN NEW;
END $$
"""
TRIGGER = "CREATE TRIGGER spent AFTER INSERT ON purchase FOR EACH ROW EXECUTE FUNCTION add_to_spent()"


class Base(DeclarativeBase):
    metadata = MetaData()


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    email: Mapped[str] = mapped_column(unique=True)
    spent: Mapped[int] = mapped_column(server_default=text("0"))
    favourite_id: Mapped[UUID | None] = mapped_column(ForeignKey("product.id"))


class Product(Base):
    __tablename__ = "product"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    title: Mapped[str]
    made_for_id: Mapped[UUID | None] = mapped_column(ForeignKey("customer.id"))


class Purchase(Base):
    __tablename__ = "purchase"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customer.id"), index=True)
    amount: Mapped[int]


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    purchase_id: Mapped[UUID] = mapped_column(ForeignKey("purchase.id"), index=True)
    body: Mapped[str]


for number in range(OTHER_TABLES):
    Table(
        f"other_{number}",
        Base.metadata,
        Column("id", BigInteger, primary_key=True),
        Column("name", Text, nullable=False, index=True),
        Column("customer_id", ForeignKey("customer.id"), index=True),
    )


@event.listens_for(Base.metadata, "after_create")
def _create_trigger(_target: object, connection: object, **_: object) -> None:
    connection.execute(text(FUNCTION))  # type: ignore[attr-defined]
    connection.execute(text(TRIGGER))  # type: ignore[attr-defined]


def get_session() -> Iterator[Session]:
    """Return the application's own session, on the database that the environment names."""
    engine = create_engine(os.environ["DATABASE_URL"])
    try:
        with Session(engine) as session:
            yield session
    finally:
        engine.dispose()


Db = Annotated[Session, Depends(get_session)]


def make_app(engine: Engine | None = None) -> FastAPI:
    """Create the application. With an engine, its sessions use that engine."""
    app = FastAPI()

    @app.put("/customers/{customer_id}")
    def put_customer(customer_id: UUID, email: str, session: Db) -> None:
        session.add(Customer(id=customer_id, email=email))
        session.commit()

    @app.put("/customers/{customer_id}/purchases/{purchase_id}")
    def put_purchase(customer_id: UUID, purchase_id: UUID, amount: int, session: Db) -> None:
        session.add(Purchase(id=purchase_id, customer_id=customer_id, amount=amount))
        session.commit()

    @app.get("/customers/{customer_id}/spent")
    def spent(customer_id: UUID, session: Db) -> int:
        customer = session.get(Customer, customer_id)
        if customer is None:
            raise HTTPException(404)
        return customer.spent

    @app.post("/purchases/{purchase_id}/notes")
    def add_note(purchase_id: UUID, body: str, session: Db) -> int:
        note = Note(purchase_id=purchase_id, body=body)
        session.add(note)
        session.commit()
        return note.id

    if engine is not None:

        def sessions() -> Iterator[Session]:
            with Session(engine) as session:
                yield session

        app.dependency_overrides[get_session] = sessions
    return app


app = make_app()
"""The global application, which old tests import."""


if __name__ == "__main__":
    Base.metadata.create_all(create_engine(os.environ["DATABASE_URL"].replace("://", "+psycopg://", 1)))
