"""Attributes that are replaced for a while, also in modules that are not imported yet."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    Wrap = Callable[[Any], Any]


class Patches(MetaPathFinder):
    """What was replaced, in order, so that it can be put back."""

    def __init__(self) -> None:
        self._awaited: dict[str, Callable[[ModuleType], None]] = {}
        self._undone: list[Callable[[], None]] = []

    def once_imported(self, module: str, act: Callable[[ModuleType], None]) -> None:
        """Act on a module: now, if it is there, or else right after it was executed."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        if module in sys.modules:
            act(sys.modules[module])
        else:
            self._awaited[module] = act

    def wrap(self, owner: object, name: str, wrapped: Wrap) -> None:
        """Put `wrapped` of what is there in its place.

        Raises:
            RuntimeError: there is nothing of this name: a release of the library that we do not know.
        """
        try:
            there = vars(owner)[name]
        except KeyError:
            raise RuntimeError(
                f"freshdb guard: {owner!r} has no {name!r}, by which connections are opened in the releases that "
                "the guard knows: use one of those, or switch the guard off"
            ) from None
        inner = there.__func__ if isinstance(there, classmethod) else there
        new = classmethod(wrapped(inner)) if isinstance(there, classmethod) else wrapped(inner)
        setattr(owner, name, new)
        self.finally_do(lambda: setattr(owner, name, there))

    def finally_do(self, act: Callable[[], None]) -> None:
        """Have it done when all is undone; what was done last comes first."""
        self._undone.append(act)

    def undo(self) -> None:
        """Put everything back."""
        self._awaited.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        while self._undone:
            self._undone.pop()()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let the others find it; its own loader acts once it has executed the module."""
        if name not in self._awaited:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                self._act_after(spec.loader, name)
                return spec
        return None

    def _act_after(self, loader: Any, name: str) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            loader.exec_module = execute
            execute(module)
            act = self._awaited.pop(name, None)
            if act is not None:
                act(module)

        loader.exec_module = exec_module
