"""Callbacks that run right after a module was imported, whoever imports it.

Standard library only, and little of that: it runs in every process that imports a trainer.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing typing would take longer than everything else here
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any
else:
    Loader = object  # importlib.abc would take long too

_callbacks: dict[str, list[Callable[[ModuleType], object]]] = {}


def after_import(module_name: str, callback: Callable[[ModuleType], object]) -> None:
    """Call `callback(module)` once, right after `module_name` was executed and before whoever
    imports it sees it; at once where it is imported already.

    Several callbacks for one module run in the order of their registration. An exception in one
    fails the import, as an exception in the module itself would, and the next attempt to import
    the module runs all of them again. A namespace package executes nothing: it is left alone.
    """
    if sys.modules.get(module_name) is not None:
        from importlib import import_module

        callback(import_module(module_name))  # waits where another thread is still importing it
        return
    _callbacks.setdefault(module_name, []).append(callback)
    if finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)


class _Finder:
    """Finds the awaited modules as the finders behind it do, but for `_Loader`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _callbacks:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec, spec.loader)
                return spec
        return None


class _Loader(Loader):
    """Another loader, and the callbacks after it. The module itself gets to see only the other."""

    def __init__(self, spec: ModuleSpec, loader: Loader) -> None:
        self._spec, self._loader = spec, loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._spec.loader = self._loader
        self._loader.exec_module(module)
        for callback in _callbacks.get(module.__name__, ()):
            callback(module)
        _callbacks.pop(module.__name__, None)


finder = _Finder()
"""The one on `sys.meta_path`."""
