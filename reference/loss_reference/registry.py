"""Losses by name: registration, lookup, and construction from a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from loss_reference.interface import LossFunction
from loss_reference.names import nearest_name
from loss_reference.settings import ConfigError

__all__ = ["LossFunctionRegistry", "create_loss_function", "register", "registry"]

L = TypeVar("L", bound=type)


class LossFunctionRegistry:
    """A table of loss classes by name.

    Registering the same class twice under one name is harmless; registering another class under a taken name raises,
    because the first one would silently be replaced.
    """

    def __init__(self) -> None:
        self.registry: dict[str, type] = {}

    def register(self, name: str, *aliases: str) -> Callable[[L], L]:
        """Return a decorator that registers a class under ``name`` and every alias.

        Raises:
            ValueError: the name is taken by another class, or the class has no ``compute_loss``.
        """

        def decorator(cls: L) -> L:
            if not callable(getattr(cls, "compute_loss", None)):
                raise ValueError(f"cannot register {cls!r} as {name!r}: it has no compute_loss(batch, model_outputs)")
            for key in (name, *aliases):
                holder = self.registry.get(key)
                if holder is not None and _identity(holder) != _identity(cls):
                    raise ValueError(
                        f"loss name {key!r} is already taken by {_identity(holder)}; {_identity(cls)} needs another name"
                    )
            self.registry.update(dict.fromkeys((name, *aliases), cls))
            return cls

        return decorator

    def names(self) -> list[str]:
        """Return every registered name, sorted."""
        return sorted(self.registry)

    def get(self, name: str) -> type[LossFunction]:
        """Return the class registered under ``name``.

        Raises:
            ValueError: no such name. Says the nearest one and all the others.
        """
        if name not in self.registry:
            known = ", ".join(self.names()) or "none"
            hint = nearest_name(str(name), self.registry) or "."
            raise ValueError(f"Unknown loss function: {name!r}{hint} Registered: {known}.")
        return self.registry[name]

    def create(self, name: str, config: Mapping[str, Any] | None = None) -> LossFunction:
        """Construct the loss registered under ``name`` with ``config``.

        Raises:
            ValueError: unknown name, or a config the loss refuses.
        """
        return self.get(name)(config)


def _identity(cls: type) -> str:
    # By name and not by object: a reloaded module re-registers the same class as a new object.
    return f"{cls.__module__}.{cls.__qualname__}"


registry = LossFunctionRegistry()
"""The registry of this package; ``create_loss_function`` and compositions look names up here."""

register = registry.register


def create_loss_function(config: Mapping[str, Any] | None = None) -> LossFunction:
    """Construct a loss from a config whose ``"type"`` names it; an empty config gives ``dpo``.

    Args:
        config: mapping with ``"type"`` and the settings of that loss. ``{}`` or ``None`` means ``{"type": "dpo"}``.

    Raises:
        ConfigError: not a mapping, or a config that has keys but no ``"type"`` (a misspelt key must not silently give DPO).
        ValueError: unknown type, unknown setting, or a value out of range.
    """
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(f"config is {type(config).__name__} {config!r}; expected a mapping such as {{'type': 'dpo'}}")
    settings = dict(config or {})
    if settings and "type" not in settings:
        misspelt = next((key for key in settings if nearest_name(str(key), ["type"])), None)
        hint = f"; did you mean 'type' instead of {misspelt!r}?" if misspelt else ""
        raise ConfigError(f"config {settings!r} has no 'type'; expected one of {', '.join(registry.names())}{hint}")
    name = settings.pop("type", "dpo")
    return registry.create(name, settings)
