"""Importing the user's module: their own errors kept apart from ours, no file loaded twice, ``sys.path`` put back."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from loss_conformance.subject.subject import TargetError
from loss_conformance.subject.user_frames import user_traceback
from loss_reference.names import nearest_name

__all__ = ["MissingModuleError", "import_file", "import_name", "importing_from"]


class MissingModuleError(Exception):
    """There is no such module.

    Attributes:
        module: the first part of the dotted name that could not be found.
    """

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.module = module


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Put ``folder`` first on ``sys.path``, and take it away again; what the user's module added stays."""
    entry = str(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


def import_name(target: str, name: str) -> ModuleType:
    """Import a module by its dotted name.

    Raises:
        MissingModuleError: there is no such module, or no such package before one of the dots.
        TargetError: it raised while it was imported.
    """
    return _guarded(target, name, lambda: importlib.import_module(name))


def import_file(target: str, path: Path) -> ModuleType:
    """Import a file, under the name it has within its package, or its own; a file imported before is not run again.

    Raises:
        TargetError: there is no such file, or it raised while it was imported.
    """
    path = path.resolve()
    if not path.is_file():
        near = [entry.name for entry in path.parent.glob("*.py")] if path.parent.is_dir() else []
        where = f"in {str(path.parent)!r}" if path.parent.is_dir() else f"; there is no folder {str(path.parent)!r}"
        separator = " " if where.startswith("in") else ""
        raise TargetError(f"{target}: there is no file {path.name!r}{separator}{where}{nearest_name(path.name, near)}")
    for module in list(sys.modules.values()):
        if _is_file(getattr(module, "__file__", None), path):
            return module
    name, folder = _dotted_name(path)
    with importing_from(folder):
        return _guarded(target, path.name, lambda: _load(path, name))


def _load(path: Path, name: str) -> ModuleType:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module of that name is loaded and came from no file
        spec = None
    if spec is not None and _is_file(spec.origin, path):
        return importlib.import_module(name)
    # Its name belongs to another module, such as one of the standard library.
    return _run_file(path)


def _is_file(origin: str | None, path: Path) -> bool:
    return isinstance(origin, str) and origin.endswith(path.name) and Path(origin).resolve() == path


def _dotted_name(path: Path) -> tuple[str, Path]:
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def _run_file(path: Path) -> ModuleType:
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _guarded(target: str, name: str, run: Callable[[], ModuleType]) -> ModuleType:
    try:
        return run()
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise MissingModuleError(error.name) from None
        raise TargetError(_raised(target, name, error), user_traceback(error)) from None
    except BaseException as error:  # SystemExit, and the outcomes of pytest, which are no Exceptions
        raise TargetError(_raised(target, name, error), user_traceback(error)) from None


def _raised(target: str, name: str, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return (
            f"{target}: importing {name} ended the program (SystemExit: {error.code}); "
            'put what runs there under `if __name__ == "__main__":`'
        )
    return f"{target}: importing {name} raised {type(error).__name__}: {error}"
