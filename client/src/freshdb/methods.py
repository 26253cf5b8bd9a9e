"""Turns operations into methods, blocking or awaited, with the operation's signature and docstring."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

if TYPE_CHECKING:
    from freshdb.messages import Flow
    from freshdb.operations import Operations

P = ParamSpec("P")
T = TypeVar("T")


class OperationMethod(Generic[P, T]):
    """An operation as a method of its owner, which has `operations` and runs what they return."""

    def __init__(self, operation: Callable[..., Any]) -> None:
        self._operation = operation
        self.__wrapped__ = operation
        self.__doc__ = operation.__doc__

    @overload
    def __get__(self, owner: None, kind: type[object]) -> Self: ...
    @overload
    def __get__(self, owner: object, kind: type[object]) -> Callable[P, T]: ...
    def __get__(self, owner: object | None, kind: type[object]) -> Self | Callable[P, T]:
        """Bind to an owner."""
        if owner is None:
            return self

        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.call(owner, *args, **kwargs)

        method.__doc__ = self.__doc__
        return method

    def call(self, owner: Any, *args: P.args, **kwargs: P.kwargs) -> T:  # noqa: ANN401 - any class with operations
        """Call the operation and let the owner run it."""
        result: T = owner.run(self._operation(owner.operations, *args, **kwargs))
        return result


class Blocking(OperationMethod[P, T], Generic[P, T]):
    """An operation as a method that blocks."""

    def __init__(self, operation: Callable[Concatenate[Operations, P], Flow[T]]) -> None:
        super().__init__(operation)


class Awaiting(OperationMethod[P, Awaitable[T]], Generic[P, T]):
    """An operation as a method that is awaited."""

    def __init__(self, operation: Callable[Concatenate[Operations, P], Flow[T]]) -> None:
        super().__init__(operation)
