"""From the object a target names to a loss that can be called: classes are constructed, factories are called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from loss_conformance.subject.locate import is_loss_class
from loss_conformance.subject.recording import LazySettings, settings_read
from loss_conformance.subject.signatures import VARIADIC, parameters_of, required_parameters
from loss_conformance.subject.subject import TargetError
from loss_conformance.subject.unbuildable import needs_arguments, raised, takes_no
from loss_conformance.subject.usual_settings import config_class, usual_settings
from loss_reference.interface import LossFunction
from loss_reference.settings import ADDRESSING_KEYS, settings_of, without_unread

__all__ = ["Construction", "construct"]

_CONFIG_NAMES: Final = ("config", "cfg")


@dataclass(frozen=True)
class Construction:
    """A loss, and how to make another one like it.

    Attributes:
        loss: the loss.
        settings: its settings by name, with the values in force.
        rebuild: returns another one with some settings changed, or ``None``; raises what the user's code raises.
        assumed: those of the settings that nobody gave a value, with one that is usual.
    """

    loss: Any
    settings: Mapping[str, Any] = field(default_factory=dict)
    rebuild: Callable[[Mapping[str, Any]], Any] | None = None
    assumed: Mapping[str, Any] = field(default_factory=dict)


def construct(
    target: str, found: Any, config: Mapping[str, Any], use: Callable[[Any], None] = lambda loss: None
) -> Construction:
    """Return the loss that ``found`` is, or makes.

    Args:
        target: as the user wrote it, for the messages.
        found: a class, an instance, a function that is the loss, or a factory of one.
        config: the constructor config.
        use: calls a throw-away copy of the loss once, so that settings read during the call are found too.

    Raises:
        TargetError: it is no loss, needs arguments, takes no such argument, or raised.
    """
    if isinstance(found, type):
        return _from_maker(target, found, config, use)
    if _is_function(found):
        if _is_factory(found):
            return _from_maker(target, found, config, use)
        return _from_function(target, found, config)
    if not callable(getattr(found, "compute_loss", None)) and not callable(found):
        raise TargetError(
            f"{target} is {_described(found)}, no loss; expected a class, an object or a function that computes a loss, "
            "or a factory of one"
        )
    if config:
        raise TargetError(f"{target} is already constructed, so the config {dict(config)!r} would not reach it")
    return Construction(found)


def _is_function(found: Any) -> bool:
    return inspect.isroutine(found) or isinstance(found, functools.partial)


def _is_factory(function: Callable[..., Any]) -> bool:
    # A loss needs at least one tensor, so what can be called with nothing, or with a config alone, makes one.
    parameters = parameters_of(function)
    if not parameters:
        return _has_signature(function)
    hidden = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    named = [p for p in parameters if p.kind not in VARIADIC]
    return bool(named) and not hidden and set(required_parameters(function)) <= set(_CONFIG_NAMES)


def _has_signature(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        return False
    return True


def _described(value: Any) -> str:
    kind = type(value).__name__
    article = "an" if kind[0].lower() in "aeiou" else "a"
    text = repr(value)
    return f"{article} {kind}" + (f" ({text})" if len(text) <= 40 and "\n" not in text else "")


def _from_maker(
    target: str, maker: Callable[..., Any], config: Mapping[str, Any], use: Callable[[Any], None]
) -> Construction:
    if isinstance(maker, type):
        _require_loss_class(target, maker)
    by_config = _takes_config(maker)
    make = _with_config(maker) if by_config else _with_keywords(maker)
    _refuse_bad_arguments(target, maker, config, by_config)
    try:
        loss = make(config)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise raised(target, maker, error, config if by_config else None) from None
    if not isinstance(maker, type):
        loss = _product(target, loss)
    settings: Mapping[str, Any] = _keyword_settings(maker, config)
    if by_config:
        declared, made = _declared_settings(loss), type(loss)
        settings = LazySettings(lambda: {**declared, **_read_settings(maker, made, config, use)})

    def rebuilt(changed: Mapping[str, Any]) -> Any:
        return _product(target, make(_read_beside(type(loss), config, changed)))

    return Construction(loss, settings, rebuilt)


def _read_beside(made: type, config: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with these settings changed, without those of its own that nothing reads beside them."""
    kept = without_unread(made, {**config, **changed})
    return {**kept, **changed}


def _require_loss_class(target: str, cls: type) -> None:
    if issubclass(cls, torch.autograd.Function):
        raise TargetError(
            f"{target} is a torch.autograd.Function, which is not called itself; name a function that calls its apply:\n"
            f"    def {_snake(cls.__name__)}(input, target):\n        return {cls.__name__}.apply(input, target)"
        )
    if not is_loss_class(cls):
        wanted = "compute_loss(self, batch, model_outputs)"
        if issubclass(cls, LossFunction):
            raise TargetError(f"{target} does not define {wanted}")
        raise TargetError(f"{target} is a class without compute_loss, forward or __call__, no loss; define {wanted}")


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def _takes_config(maker: Callable[..., Any]) -> bool:
    named = [p for p in parameters_of(maker) if p.kind not in VARIADIC]
    if named:
        return named[0].name in _CONFIG_NAMES
    return isinstance(maker, type) and issubclass(maker, LossFunction)


def _with_config(maker: Callable[..., Any]) -> Callable[[Mapping[str, Any]], Any]:
    return lambda config: _alike(lambda: maker(dict(config)))


def _with_keywords(maker: Callable[..., Any]) -> Callable[[Mapping[str, Any]], Any]:
    return lambda config: _alike(lambda: maker(**config))


def _alike(make: Callable[[], Any]) -> Any:
    """Return what ``make`` makes, from the same random numbers each time; those of the process stay where they were.

    Two losses that differ in one setting then have the same initial weights, and a run can be repeated.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make()


def _refuse_bad_arguments(target: str, maker: Callable[..., Any], config: Mapping[str, Any], by_config: bool) -> None:
    given = _CONFIG_NAMES if by_config else tuple(config)
    missing = [name for name in required_parameters(maker) if name not in given]
    if missing:
        raise needs_arguments(target, maker, missing, config, by_config)
    parameters = parameters_of(maker)
    open_ended = by_config or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    if not open_ended:
        _refuse_unknown(target, [p.name for p in parameters if p.kind not in VARIADIC], config)


def _refuse_unknown(target: str, names: list[str], config: Mapping[str, Any]) -> None:
    unknown = next((key for key in config if key not in names), None)
    if unknown is not None:
        raise takes_no(target, unknown, names)


def _product(target: str, made: Any) -> Any:
    if isinstance(made, type):
        made = made()
    if isinstance(made, torch.Tensor) or not (callable(made) or callable(getattr(made, "compute_loss", None))):
        raise TargetError(
            f"{target} takes no tensors, so it was called as a factory, and returned {_described(made)} instead of a loss"
        )
    return made


def _from_function(target: str, function: Callable[..., Any], config: Mapping[str, Any]) -> Construction:
    _refuse_unknown(target, [p.name for p in parameters_of(function) if p.kind not in VARIADIC], config)

    def with_settings(changed: Mapping[str, Any]) -> Any:
        bound = functools.partial(function, **changed)
        functools.update_wrapper(bound, function)
        del bound.__dict__["__wrapped__"]  # or its signature would be taken for the one without settings
        return bound

    config = {name: _of_its_class(target, function, name, value) for name, value in config.items()}
    declared = getattr(getattr(function, "contract", None), "fields", {})
    assumed = usual_settings(function, lambda name: name in config or name in declared)
    settings = {**_keyword_settings(function, config), **assumed}
    bound = {**config, **assumed}
    rebuild = (lambda changed: with_settings({**bound, **changed})) if settings else None
    return Construction(with_settings(bound) if bound else function, settings, rebuild, assumed)


def _of_its_class(target: str, function: Callable[..., Any], name: str, value: Any) -> Any:
    """Return a config given as a mapping as an object of the class its parameter is annotated with."""
    cls = config_class(function, name) if isinstance(value, Mapping) else None
    if cls is None:
        return value
    try:
        return cls(**value)
    except Exception as error:
        raise raised(target, cls, error, value) from None


def _keyword_settings(maker: Callable[..., Any], config: Mapping[str, Any]) -> dict[str, Any]:
    found = {p.name: config.get(p.name, p.default) for p in parameters_of(maker) if p.kind not in VARIADIC}
    # What is None until given may be a tensor of a function; a constructor's is for the contract to say.
    kinds = (bool, int, float, str, type(None)) if isinstance(maker, type) else (bool, int, float, str)
    return {name: value for name, value in found.items() if isinstance(value, kinds)}


def _declared_settings(loss: Any) -> dict[str, Any]:
    return {setting.key: getattr(loss, name) for name, setting in settings_of(type(loss)).items()}


def _read_settings(
    maker: Callable[..., Any], made: type, config: Mapping[str, Any], use: Callable[[Any], None]
) -> dict[str, Any]:
    declared = {setting.key for setting in settings_of(made).values()}
    log = settings_read(maker, made, config, use)
    return {key: value for key, value in log.items() if key in declared or key not in ADDRESSING_KEYS}
