"""Turns operations into methods: one that blocks, one that is awaited, with the operation's signature and docstring."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

if TYPE_CHECKING:
    from freshdb.messages import Flow
    from freshdb.operations import Operations

P = ParamSpec("P")
T = TypeVar("T")


class BlockingOwner(Protocol):
    """Carries flows out, blocking."""

    @property
    def operations(self) -> Operations:
        """What it can do."""

    def run(self, flow: Flow[T]) -> T:
        """Carry a flow out."""


class AwaitingOwner(Protocol):
    """Carries flows out, awaiting."""

    @property
    def operations(self) -> Operations:
        """What it can do."""

    async def run(self, flow: Flow[T]) -> T:
        """Carry a flow out."""


class Blocking(Generic[P, T]):
    """An operation as a method that blocks."""

    def __init__(self, operation: Callable[Concatenate[Operations, P], Flow[T]]) -> None:
        self._operation = operation
        self.__wrapped__ = operation
        self.__doc__ = operation.__doc__

    @overload
    def __get__(self, client: None, owner: type[BlockingOwner]) -> Self: ...
    @overload
    def __get__(self, client: BlockingOwner, owner: type[BlockingOwner]) -> Callable[P, T]: ...
    def __get__(self, client: BlockingOwner | None, owner: type[BlockingOwner]) -> Self | Callable[P, T]:
        """Bind to a client."""
        if client is None:
            return self

        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return client.run(self._operation(client.operations, *args, **kwargs))

        method.__doc__ = self.__doc__
        return method


class Awaiting(Generic[P, T]):
    """An operation as a method that is awaited."""

    def __init__(self, operation: Callable[Concatenate[Operations, P], Flow[T]]) -> None:
        self._operation = operation
        self.__wrapped__ = operation
        self.__doc__ = operation.__doc__

    @overload
    def __get__(self, client: None, owner: type[AwaitingOwner]) -> Self: ...
    @overload
    def __get__(self, client: AwaitingOwner, owner: type[AwaitingOwner]) -> Callable[P, Awaitable[T]]: ...
    def __get__(
        self, client: AwaitingOwner | None, owner: type[AwaitingOwner]
    ) -> Self | Callable[P, Awaitable[T]]:
        """Bind to a client."""
        if client is None:
            return self

        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await client.run(self._operation(client.operations, *args, **kwargs))

        method.__doc__ = self.__doc__
        return method
