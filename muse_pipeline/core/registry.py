"""Plug-ins by name: a new reader, backbone, method or metric is one new file next to the existing
ones.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.text import suggest

T = TypeVar("T")


class Registry(Generic[T]):
    """Plug-ins of one kind, a noun for messages, keyed by name.

    Modules of ``package`` are imported when a plug-in is first looked up. If a module has the name
    of the plug-in, only that module is imported, so that a plug-in does not need the packages that
    others need. A plug-in whose packages are missing fails only when it is requested. If each
    plug-in is a package, its module ``entry`` registers it. Other distributions add plug-ins
    through entry points of a ``group``, by default the name of the ``package``, each of which loads
    a module, unless a module of the package has registered a plug-in for it.
    """

    def __init__(self, kind: str, package: str, entry: str = "", group: str = ""):
        self.kind = kind
        self.package = package
        self._entry = f".{entry}" if entry else ""
        self.group = group or package
        self._entries: dict[str, T] = {}
        self._loaded = False
        self._lacking: dict[str, ModuleNotFoundError] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a class or function under ``name``."""

        def enter(entry: T) -> T:
            self._entries[name] = entry
            return entry

        return enter

    def names(self) -> list[str]:
        """Sorted names of all plug-ins."""
        self._load()
        return sorted(self._entries)

    def __getitem__(self, name: str) -> T:
        """The plug-in called ``name``."""
        if name not in self._entries and name.isidentifier():
            self._import(name)
        if name not in self._entries:
            self._load()
        if name not in self._entries:
            # If no plug-in could be imported, the cause is a missing package, not a wrong name.
            if lacking := self._lacking.get(
                name, None if self._entries else next(iter(self._lacking.values()), None)
            ):
                raise lacking
            hint = suggest(name, self._entries, f"known: {', '.join(self.names())}")
            raise ConfigError(f"unknown {self.kind} '{name}'; {hint}")
        return self._entries[name]

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            folder = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(folder.__path__):
                self._import(module.name)
            from importlib.metadata import entry_points  # takes longer to load than this module

            for point in entry_points(group=self.group):
                if point.name not in self._entries:
                    point.load()

    def _import(self, module: str) -> None:
        name = f"{self.package}.{module}{self._entry}"
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            # the module exists, but needs a missing package
            if error.name not in (f"{self.package}.{module}", name):
                self._lacking[module] = error
