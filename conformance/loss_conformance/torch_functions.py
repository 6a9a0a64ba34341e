"""The functions of torch everybody calls: put back when a loss replaced one, and the replacement remembered."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Final

import torch
import torch.nn.functional
from torch import nn

__all__ = ["functions_kept", "functions_replaced", "look_again"]

_SPACES: Final[dict[str, Any]] = {
    "torch": torch,
    "torch.Tensor": torch.Tensor,
    "torch.nn.functional": torch.nn.functional,
    "torch.nn.Module": nn.Module,
    "torch.autograd": torch.autograd,
    "torch.linalg": torch.linalg,
    "torch.special": torch.special,
}
_TORCH: Final = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep

_known: dict[str, dict[str, Any]] = {}
"""What the names of each namespace stood for when last looked at."""

_values: dict[str, list[Any]] = {}

_replaced: list[str] = []


def functions_replaced() -> tuple[str, ...]:
    """Return the full names of all functions found replaced and put back so far, the latest last."""
    return tuple(_replaced)


def look_again() -> None:
    """Take whatever the names stand for now as right, for somebody else than the loss may have replaced some."""
    for space, owner in _SPACES.items():
        if space not in _known or not _as_known(space, owner):
            _know(space, owner)


def _know(space: str, owner: Any) -> None:
    _known[space] = dict(vars(owner))
    _values[space] = list(_known[space].values())


def _as_known(space: str, owner: Any) -> bool:
    # Lists are compared by identity first, which for thousands of names takes microseconds; this runs at every call.
    try:
        return list(vars(owner).values()) == _values[space]
    except Exception:  # somebody put a thing there that cannot be compared
        return False


@contextlib.contextmanager
def functions_kept() -> Iterator[None]:
    """Run the body, the loss, and make every name stand again for what it stood for when last looked at."""
    if not _known:
        look_again()
    try:
        yield
    finally:
        for space, owner in _SPACES.items():
            if not _as_known(space, owner):
                _put_back(space, owner, _known[space])


def _put_back(space: str, owner: Any, known: dict[str, Any]) -> None:
    now = dict(vars(owner))
    changed = [name for name, value in known.items() if now.get(name) is not value and _is_function(name, value)]
    bases = owner.__mro__[1:] if isinstance(owner, type) else ()
    hiding = [name for name in now if name not in known and any(hasattr(base, name) for base in bases)]
    for name in sorted(changed + hiding):
        # torch wraps a function of its own when a part of it is first used.
        if _of_torch(now.get(name)):
            continue
        _replaced.append(f"{space}.{name}")
        setattr(owner, name, known[name]) if name in known else delattr(owner, name)
    _know(space, owner)


def _is_function(name: str, value: object) -> bool:
    dunder = name.startswith("__") and name.endswith("__")
    return callable(value) and not isinstance(value, type) and (dunder or not name.startswith("_"))


def _of_torch(value: object) -> bool:
    code = getattr(value, "__code__", None)
    return code is not None and code.co_filename.startswith(_TORCH)
