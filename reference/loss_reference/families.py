"""Every loss of the package, found by importing the modules of the family folders: a new file registers itself."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from loss_reference.contract import FAMILIES
from loss_reference.names import nearest_name
from loss_reference.registry import registry

__all__ = ["import_families", "registered_class"]


def import_families() -> None:
    """Import every module of every family, which registers its losses."""
    for family in FAMILIES:
        package = import_module(f"loss_reference.{family}")
        for module in iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")


def registered_class(name: str) -> Any:
    """Return the loss class called ``name``, whichever module of this package it is in.

    Raises:
        AttributeError: no such class. Names the nearest one.
    """
    classes = {cls.__name__: cls for cls in registry.registry.values() if cls.__module__.startswith("loss_reference.")}
    if name not in classes:
        raise AttributeError(f"module 'loss_reference' has no {name!r}{nearest_name(name, classes)}")
    return classes[name]
