"""Which settings a constructor reads from its config, found by building a throw-away loss on a config that listens."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch

__all__ = ["LazySettings", "RecordingConfig", "settings_read"]

_MISSING: Any = object()


class RecordingConfig(dict[str, Any]):
    """A dict that notes in ``log`` every key read from it, with the value the reader got."""

    def __init__(self, values: Mapping[str, Any], log: dict[str, Any]) -> None:
        super().__init__(values)
        self.log = log

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        self.log[key] = value
        return value

    def get(self, key: str, default: Any = None) -> Any:
        self.log[key] = value = super().get(key, default)
        return value

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        value = super().pop(key) if default is _MISSING else super().pop(key, default)
        self.log[key] = value
        return value

    def setdefault(self, key: str, default: Any = None) -> Any:
        self.log[key] = value = super().setdefault(key, default)
        return value

    def __deepcopy__(self, memo: dict[int, Any]) -> RecordingConfig:
        # A copy of a listening loss listens too, and tells the same log.
        return RecordingConfig(copy.deepcopy(dict(self), memo), self.log)

    def __bool__(self) -> bool:
        # `config or {}` must not swap a listening config for a deaf one.
        return True


class LazySettings(Mapping[str, Any]):
    """Settings that are looked for when somebody first asks: loading a loss does not call it."""

    def __init__(self, find: Callable[[], Mapping[str, Any]]) -> None:
        self._find = find

    @cached_property
    def _found(self) -> Mapping[str, Any]:
        return self._find()

    def __getitem__(self, name: str) -> Any:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return repr(dict(self))


class _ListeningAttribute:
    """Stands in for the attribute ``config`` of a class: a mapping stored there listens too."""

    def __init__(self, log: dict[str, Any]) -> None:
        self.log = log

    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        try:
            return instance.__dict__["config"]
        except KeyError:
            raise AttributeError(f"{owner.__name__!r} object has no attribute 'config'") from None

    def __set__(self, instance: object, value: Any) -> None:
        instance.__dict__["config"] = RecordingConfig(value, self.log) if type(value) is dict else value


def settings_read(
    maker: Callable[..., Any], made: type, config: Mapping[str, Any], use: Callable[[Any], None]
) -> dict[str, Any]:
    """Return the settings that ``maker(config)``, and then ``use`` of what it made, read, with the values in force.

    The loss made here, one of class ``made``, is thrown away: the one under test gets a plain dict. What goes wrong on
    the way is left for the real construction to say; global random state is put back and nothing is printed.
    """
    log: dict[str, Any] = {}
    quiet = contextlib.redirect_stdout(io.StringIO())
    with quiet, contextlib.suppress(Exception, SystemExit), torch.random.fork_rng(devices=[]):
        with _listening(made, log):
            loss = maker(RecordingConfig(config, log))
        use(loss)
    return log


@contextlib.contextmanager
def _listening(made: type, log: dict[str, Any]) -> Iterator[None]:
    # Only for a class whose instances keep `config` in the ordinary way.
    if hasattr(made, "config") or hasattr(made, "__slots__") or made.__module__ == "builtins":
        yield
        return
    owner: Any = made
    owner.config = _ListeningAttribute(log)
    try:
        yield
    finally:
        del owner.config
