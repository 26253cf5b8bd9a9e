"""Temporary patches of attributes, also in modules that are not imported yet."""

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
    """Patches in their order, so that they can be undone."""

    def __init__(self) -> None:
        self._callbacks: dict[str, Callable[[ModuleType], None]] = {}
        self._undo_callbacks: list[Callable[[], None]] = []

    def when_imported(self, module: str, callback: Callable[[ModuleType], None]) -> None:
        """Call back with a module, now if it is imported already, or right after its import."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        if module in sys.modules:
            callback(sys.modules[module])
        else:
            self._callbacks[module] = callback

    def wrap(self, owner: object, name: str, wrapped: Wrap) -> None:
        """Replace an attribute by `wrapped` of it.

        Raises:
            RuntimeError: the attribute does not exist in this release of the library.
        """
        try:
            original = vars(owner)[name]
        except KeyError:
            raise RuntimeError(
                f"freshdb guard: {owner!r} has no {name!r}, so this release of the library cannot be guarded: "
                "use another release, or switch the guard off"
            ) from None
        inner = original.__func__ if isinstance(original, classmethod) else original
        new = classmethod(wrapped(inner)) if isinstance(original, classmethod) else wrapped(inner)
        setattr(owner, name, new)
        self.on_undo(lambda: setattr(owner, name, original))

    def on_undo(self, callback: Callable[[], None]) -> None:
        """Register a callback of `undo`. They are called in reverse order."""
        self._undo_callbacks.append(callback)

    def undo(self) -> None:
        """Restore all attributes."""
        self._callbacks.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        while self._undo_callbacks:
            self._undo_callbacks.pop()()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module by the other finders, and call back after its loader has executed it."""
        if name not in self._callbacks:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                self._call_after(spec.loader, name)
                return spec
        return None

    def _call_after(self, loader: Any, name: str) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            loader.exec_module = execute
            execute(module)
            callback = self._callbacks.pop(name, None)
            if callback is not None:
                callback(module)

        loader.exec_module = exec_module
