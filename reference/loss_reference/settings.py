"""Constructor settings of a loss: declared beside the equation, read from the config, checked once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, overload

from loss_reference.names import nearest_name
from loss_reference.relevance import Condition

__all__ = ["ConfigError", "Setting", "read_settings", "reject_unknown_keys", "without_unread"]

T = TypeVar("T")

# Keys that address a loss rather than set it up: read by registries and compositions.
ADDRESSING_KEYS = ("type", "weight", "name")


class ConfigError(ValueError):
    """A config names a setting that does not exist, gives one a value outside its range, or one that nothing reads."""


class Setting(Generic[T]):
    """One setting of a loss: ``beta = Setting(0.1, above=0.0)`` reads ``config["beta"]``.

    After construction the attribute holds the value itself, already validated.

    Args:
        default: value when the config does not name it.
        above, below: exclusive limits.
        least, most: inclusive limits.
        choices: the only values allowed.
        optional: ``None`` is allowed as well.
        whole: only whole numbers are allowed, as they are where the default is one.
        check: whether the value is validated at all; a structured setting validates itself elsewhere.
        key: the config key, where it is not the name of the attribute.
        read_when: conditions on other settings, all of which have to hold for this one to have an effect:
            ``read_when=where("kl_type", "mixed")``. Another value than the default is refused where one does not.
    """

    def __init__(
        self,
        default: T,
        *,
        above: float | None = None,
        below: float | None = None,
        least: float | None = None,
        most: float | None = None,
        choices: tuple[Any, ...] = (),
        optional: bool = False,
        whole: bool = False,
        check: bool = True,
        key: str = "",
        read_when: Condition | tuple[Condition, ...] = (),
    ) -> None:
        self.default = default
        self.above, self.below, self.least, self.most = above, below, least, most
        self.choices = choices
        self.optional = optional
        self.whole = whole or (isinstance(default, int) and not isinstance(default, bool))
        self.check = check
        self.key = key
        self.read_when = (read_when,) if isinstance(read_when, Condition) else read_when

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.key = self.key or name

    @overload
    def __get__(self, instance: None, owner: type) -> Setting[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Setting[T] | T:
        if instance is None:
            return self
        value: T = instance.__dict__.get(self.name, self.default)
        return value

    def __set__(self, instance: object, value: T) -> None:
        instance.__dict__[self.name] = value

    def read(self, loss: str, config: Mapping[str, Any]) -> T:
        """Return the configured value, or the default; raise ``ConfigError`` when it is out of range."""
        value: Any = config.get(self.key, self.default)
        if not self.check or (value is None and self.optional):
            return value  # type: ignore[no-any-return]
        if self.choices:
            if value not in self.choices:
                hint = nearest_name(value, map(str, self.choices)) if isinstance(value, str) else ""
                raise ConfigError(f"{loss}: {self.key}={value!r}; expected one of {self._range()}{hint}")
            return value  # type: ignore[no-any-return]
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise ConfigError(f"{loss}: {self.key}={value!r}; expected true or false")
            return value  # type: ignore[return-value]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{loss}: {self.key}={value!r}; expected a finite number{self._range(', ')}")
        if self.whole and not isinstance(value, int):
            raise ConfigError(f"{loss}: {self.key}={value!r}; expected a whole number{self._range(', ')}")
        if not self._inside(value):
            raise ConfigError(f"{loss}: {self.key}={value!r} is out of range; expected a number {self._range()}")
        return value  # type: ignore[return-value]

    def unread_beside(self, loss: object) -> Condition | None:
        """Return the condition that keeps ``loss`` from reading another value than the default, ``None`` without one."""
        value: Any = getattr(loss, self.name)
        if value is self.default or value == self.default:  # as written by whoever lists every key
            return None
        return next((condition for condition in self.read_when if not condition.holds(loss)), None)

    def _inside(self, value: float) -> bool:
        return (
            (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
        )

    def _range(self, prefix: str = "") -> str:
        if self.choices:
            return ", ".join(map(repr, self.choices))
        limits = (("above", self.above), ("at least", self.least), ("below", self.below), ("at most", self.most))
        words = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
        return prefix + words if words else ""


def settings_of(cls: type) -> dict[str, Setting[Any]]:
    """Return every setting of a class by name, its own and the inherited ones."""
    found: dict[str, Setting[Any]] = {}
    for base in reversed(cls.__mro__):
        found.update({name: value for name, value in vars(base).items() if isinstance(value, Setting)})
    return found


def read_settings(loss: object, config: Mapping[str, Any]) -> None:
    """Validate every setting of ``loss`` against ``config`` and store the values on it.

    Raises:
        ConfigError: a value out of range, or one that has no effect beside the other settings. Quotes the loss, the key,
            the value and the allowed range, or what makes it unread and where it is read.
    """
    name, settings = type(loss).__name__, settings_of(type(loss)).values()
    for setting in settings:
        setattr(loss, setting.name, setting.read(name, config))
    for setting in settings:
        condition = setting.unread_beside(loss)
        if condition is not None:
            given = f"{setting.key}={getattr(loss, setting.name)!r}"
            raise ConfigError(
                f"{name}: {given} has no effect beside {condition.found(loss)}; it is read where {condition}"
            )


def without_unread(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config`` without the settings of ``cls`` that nothing reads beside the others, to be given to ``cls``.

    For configs that are put together, such as one of another loss or one in which a single setting was changed.
    """
    settings, kept = settings_of(cls).values(), dict(config)
    while True:  # what one setting alone made another read goes with it
        values = SimpleNamespace(**{setting.name: kept.get(setting.key, setting.default) for setting in settings})
        unread = [setting.key for setting in settings if setting.unread_beside(values) is not None]
        if not unread:
            return kept
        for key in unread:
            del kept[key]


def reject_unknown_keys(loss: object, config: Mapping[str, Any]) -> None:
    """Refuse a key that nothing reads, when the class itself lists what it reads.

    A class that declares a ``Setting`` in its own body lists its settings and is strict. A class that does not, such
    as a subclass reading ``config["custom_weight"]`` in its constructor, may read keys of its own.

    Raises:
        ConfigError: quotes the key and names the nearest setting.
    """
    cls = type(loss)
    strict = vars(cls).get("strict_config", any(isinstance(value, Setting) for value in vars(cls).values()))
    if not strict:
        return
    keys = [setting.key for setting in settings_of(cls).values()]
    known = [*keys, *ADDRESSING_KEYS]
    for key in config:
        if key not in known:
            expected = ", ".join(keys) or "no keys at all"
            raise ConfigError(
                f"{cls.__name__}: unknown config key {key!r}; expected {expected}{nearest_name(str(key), known)}"
            )
