"""Checks that other distributions bring: modules named in the entry point group ``loss_conformance.checks``."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from loss_conformance.checks.registry import Check

__all__ = ["GROUP", "BrokenExtension", "load_extensions", "provider"]

GROUP: Final = "loss_conformance.checks"


class BrokenExtension(Exception):
    """The checks of a distribution cannot be loaded. The message is for the user, complete and final."""


_tried: list[BrokenExtension | None] = []
_loading: list[str] = []


def load_extensions(checks: dict[str, Check]) -> None:
    """Import every module of the group once, in the order of their distributions, so that it registers in ``checks``.

    Raises:
        BrokenExtension: one raised, or registered nothing; nothing of it is registered then. Raised each time.
    """
    if not _tried:
        _tried.append(None)  # what is imported below asks for the checks itself, perhaps
        _tried[0] = _problem(checks)
    if _tried[0] is not None:
        raise _tried[0]


def provider() -> str:
    """Return the distribution whose checks are being loaded, or nothing."""
    return _loading[-1] if _loading else ""


def _problem(checks: dict[str, Check]) -> BrokenExtension | None:
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (_distribution(entry), entry.name)):
        before = dict(checks)
        try:
            with _naming(_distribution(entry)):
                entry.load()
            _require_checks(entry, checks)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, and the outcomes of pytest, which are no Exceptions
            checks.clear()
            checks.update(before)
            return BrokenExtension(_said(entry, error))
    return None


@contextmanager
def _naming(distribution: str) -> Iterator[None]:
    _loading.append(distribution)
    try:
        yield
    finally:
        _loading.pop()


def _require_checks(entry: EntryPoint, checks: dict[str, Check]) -> None:
    distribution = _distribution(entry)
    inside = (entry.module, f"{entry.module}.")
    if not any(c.origin.startswith(distribution) or c.law.__module__.startswith(inside) for c in checks.values()):
        raise ValueError(f"{entry.module} registers no check; decorate a law in it with loss_conformance.check")


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unnamed distribution"


def _said(entry: EntryPoint, error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f" ({frame.filename}, line {frame.lineno})" if _is_of(entry, frame.filename) else ""
    name = entry.dist.name if entry.dist is not None else "it"
    return (
        f"the checks of {_distribution(entry)} cannot be loaded: {type(error).__name__}: {error}{where}\n"
        f"  entry point {entry.name} = {entry.value!r} in the group {GROUP}; repair it, or uninstall {name}"
    )


def _is_of(entry: EntryPoint, filename: str) -> bool:
    return not filename.startswith("<") and entry.module.partition(".")[0] in filename
