"""From the name of a loss to the object: dotted paths, ``module:Name`` and ``path/file.py:Name``."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from loss_conformance.subject.import_module import MissingModuleError, import_file, import_name, importing_from
from loss_conformance.subject.subject import TargetError
from loss_reference.names import nearest_name

__all__ = ["is_loss_class", "locate", "losses_in"]


def locate(target: str, root: Path) -> Any:
    """Return the object a target names.

    Raises:
        TargetError: no such module or name; the module raised while it was imported; the target names a module.
    """
    with importing_from(root):
        module, names = _module_and_names(target.strip(), root)
        found: Any = module
        for position, name in enumerate(names):
            holder = found
            try:
                found = getattr(holder, name)
            except AttributeError:
                raise TargetError(_no_such_name(target, module, names[:position], holder, name)) from None
    if isinstance(found, ModuleType):
        raise TargetError(f"{target} is a module; name the loss in it\n{_defined(found)}")
    return found


def _module_and_names(target: str, root: Path) -> tuple[ModuleType, list[str]]:
    if ":" in target:
        place, _, name = target.rpartition(":")
        names = name.split(".") if name else []
        if place.endswith(".py"):
            return import_file(target, root / place), names
        module = _import_whole(target, place, root)
        return module, names
    if target.endswith(".py"):
        module = import_file(target, root / target)
        raise TargetError(
            f"{target} is a file; name the loss in it, as in {target}:{_example(module)}\n{_defined(module)}"
        )
    parts = target.split(".")
    if not all(part.isidentifier() for part in parts):
        raise TargetError(f"{target!r} is not a target; write package.module.Name, module:Name or path/to/file.py:Name")
    return _longest_module(target, parts, root)


def _longest_module(target: str, parts: list[str], root: Path) -> tuple[ModuleType, list[str]]:
    # A package may export a name that one of its modules has too, so the last part is tried as a module only if the
    # package does not have it.
    for length in range(max(len(parts) - 1, 1), 0, -1):
        try:
            module = import_name(target, ".".join(parts[:length]))
        except MissingModuleError:
            continue
        if length == len(parts) - 1 and not hasattr(module, parts[-1]):
            try:
                return import_name(target, target), []
            except MissingModuleError:
                pass
        return module, parts[length:]
    raise TargetError(_no_such_module(target, parts[0], root, root))


def _import_whole(target: str, name: str, root: Path) -> ModuleType:
    try:
        return import_name(target, name)
    except MissingModuleError as missing:
        parent, _, last = missing.module.rpartition(".")
        folder = Path(str(importlib.import_module(parent).__file__)).parent if parent else root
        raise TargetError(_no_such_module(target, missing.module if parent else last, folder, root)) from None


def _no_such_module(target: str, name: str, folder: Path, root: Path) -> str:
    last = name.rpartition(".")[2]
    here = sorted(_importable(folder))
    message = f"{target}: there is no module {name!r} in {str(folder)!r} or among the installed packages"
    hint = nearest_name(last, here)
    elsewhere = next((path for path in sorted(root.glob(f"*/{last}.py"))), None)
    if elsewhere is not None:
        name_in_it = target[len(name) :].lstrip(".:") or "Name"
        return f"{message}; there is a file {elsewhere.relative_to(root)}: write {elsewhere.relative_to(root)}:{name_in_it}"
    if hint or not here:
        return message + hint
    return f"{message}\n  modules there: {_listed(here)}"


def _importable(folder: Path) -> set[str]:
    try:
        entries = list(folder.iterdir())
    except OSError:
        return set()
    files = {entry.stem for entry in entries if entry.suffix == ".py" and entry.stem.isidentifier()}
    packages = {entry.name for entry in entries if entry.is_dir() and any(entry.glob("*.py"))}
    return {name for name in files | packages if not name.startswith("_") and name.isidentifier()}


def _no_such_name(target: str, module: ModuleType, path: list[str], holder: Any, name: str) -> str:
    where = f"module {module.__name__!r}" if not path else f"{module.__name__}.{'.'.join(path)}"
    public = [known for known in dir(holder) if not known.startswith("__")]
    if isinstance(holder, ModuleType):
        public += [inside for folder in getattr(holder, "__path__", ()) for inside in _importable(Path(folder))]
    lines = f"{target}: {where} has no {name!r}{nearest_name(name, public)}"
    return f"{lines}\n{_defined(module)}"


def losses_in(module: ModuleType) -> list[str]:
    """Return the names of the losses a module defines: loss classes, and functions named like one."""
    found = []
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        named = callable(value) and not isinstance(value, type) and "loss" in name.lower()
        if named or (isinstance(value, type) and is_loss_class(value)):
            found.append(name)
    return found


def is_loss_class(cls: type) -> bool:
    """Return whether instances of ``cls`` can be called as a loss: a ``compute_loss``, ``forward`` or ``__call__``."""
    for base in cls.__mro__:
        if base.__module__ in ("torch.nn.modules.module", "loss_reference.interface", "builtins"):
            continue
        if any(name in vars(base) for name in ("compute_loss", "forward", "__call__")):
            return True
    return False


def _defined(module: ModuleType) -> str:
    found = losses_in(module)
    return f"  losses defined in {module.__name__}: {_listed(found) if found else 'none'}"


def _example(module: ModuleType) -> str:
    return next(iter(losses_in(module)), "Name")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown}, and {len(names) - 12} more" if len(names) > 12 else shown
