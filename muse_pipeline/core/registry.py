"""Plug-ins by name: a new reader, backbone, method or metric is one new file beside its siblings."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from typing import Generic, TypeVar

from muse_pipeline.core.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of plug-in.

    The modules of ``package`` are imported at the first look-up, not before. One that is called as its plug-in is
    imported alone, so that a plug-in does not need the packages of its siblings; one whose packages are not installed
    is missed only by who asks for it.

    Args:
        kind: for messages.
        package: of the modules.
        entry: module that registers the plug-in, where plug-ins are packages.
    """

    def __init__(self, kind: str, package: str, entry: str = ""):
        self.kind, self.package, self._entry = kind, package, f".{entry}" if entry else ""
        self._entries: dict[str, T] = {}
        self._loaded = False
        self._lacking: dict[str, ModuleNotFoundError] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters a class or function under ``name``."""

        def enter(entry: T) -> T:
            self._entries[name] = entry
            return entry

        return enter

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self._entries)

    def __getitem__(self, name: str) -> T:
        """The entry called ``name``.

        Raises:
            ConfigError: there is none; the nearest names are given.
            ModuleNotFoundError: it needs a package that is not installed.
        """
        if name not in self._entries and name.isidentifier():
            self._import(name)
        if name not in self._entries:
            self._load()
        if name not in self._entries:
            if lacking := self._lacking.get(name, None if self._entries else next(iter(self._lacking.values()), None)):
                raise lacking
            near = get_close_matches(name, self._entries, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(self.names())}"
            raise ConfigError(f"unknown {self.kind} '{name}'; {hint}")
        return self._entries[name]

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            folder = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(folder.__path__):
                self._import(module.name)

    def _import(self, module: str) -> None:
        name = f"{self.package}.{module}{self._entry}"
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (f"{self.package}.{module}", name):  # else there is no such module
                self._lacking[module] = error
