"""Modules of released packages that only load beside a whole cluster or audio stack, loaded by themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any


class Absent(ModuleType):
    """Stands for a package while another one imports names from it; the names do nothing."""

    __path__ = ()  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def standing_in(names: Sequence[str]) -> Iterator[None]:
    missing = [name for name in names if name not in sys.modules]
    sys.modules.update({name: Absent(name) for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


def load(module: str, without_init: Sequence[str] = (), absent: Sequence[str] = ()) -> Any:
    """Return ``module`` of an installed package.

    Args:
        module: its dotted name.
        without_init: packages above it whose own ``__init__`` is not run.
        absent: packages it imports names from that its losses do not use; they need not be installed.

    Raises:
        ImportError: the package is not installed.
    """
    if module in sys.modules:
        return sys.modules[module]
    top = module.split(".")[0]
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"no module named {top!r}")
    folder = Path(next(iter(spec.submodule_search_locations))).parent
    for name in without_init:
        if name not in sys.modules:
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(folder.joinpath(*name.split(".")))]
            sys.modules[name] = module_from_spec(spec)
    with standing_in(absent):
        return import_module(module)
