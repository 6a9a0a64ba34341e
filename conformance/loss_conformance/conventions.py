"""A reference loss in every convention it knows: its options, and the numbers settings usually have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import Any, Final

from loss_conformance.subject.setting_names import shared_settings
from loss_reference.interface import LossFunction
from loss_reference.settings import ConfigError, settings_of, without_unread

__all__ = ["conventions"]

_USUAL: Final[dict[str, tuple[float, ...]]] = {
    "beta": (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0),
    "temperature": (0.05, 0.07, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0),
    "gamma": (0.5, 1.0, 1.5, 2.0, 5.0),
    "margin": (0.1, 0.2, 0.3, 0.5, 1.0, 2.0),
    "alpha": (0.1, 0.25, 0.5, 0.75, 1.0),
    **dict.fromkeys(("ratio_clip_min", "ratio_clip_max"), (0.1, 0.2, 0.28, 0.3)),
}
"""Numbers written into code where the reference has a setting."""

_TOGETHER: Final = ("ratio_clip_min", "ratio_clip_max")
"""Two settings that are one number in most code, tried first."""

MOST: Final = 150


def conventions(
    reference: type[LossFunction], given: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], LossFunction]]:
    """Yield ``reference`` with the settings it shares with ``given``, and every other one at each of its values.

    Each comes with the settings that are not shared and differ from their defaults.

    One setting is varied at a time, then two; ``MOST`` losses in all.
    """
    known = settings_of(reference)
    fixed = shared_settings(given, known)
    own = [v for name, v in given.items() if type(v) is float and shared_settings({name: v}, known) == {}]
    free = {name: values for name, values in _values(reference, own).items() if name not in fixed}
    made = 0
    for changed in _changes(free):
        if made == MOST:
            return
        config = without_unread(reference, {**fixed, **changed})
        if not changed.keys() <= config.keys():  # the same loss as without this change
            continue
        try:
            loss = reference(config)
        except (ConfigError, ValueError):
            continue
        made += 1
        yield changed, loss


def _values(reference: type[LossFunction], own: list[float]) -> dict[str, list[Any]]:
    """Return what each setting may be set to, its default left out; the order of rows is not a convention of the loss.

    Args:
        reference: the reference loss.
        own: numbers the other loss is set to by names of its own, which may be those of any number here.
    """
    declared = reference.contract.options
    found = {}
    for name, setting in settings_of(reference).items():
        option = declared.get(name)
        if (option is not None and option.inert) or name == "pair_layout":
            continue
        values = [
            *(own if isinstance(setting.default, float) else ()),
            *(option.values if option else ()),
            *setting.choices,
            *_USUAL.get(name, ()),
        ]
        found[name] = [value for value in dict.fromkeys(values) if value != setting.default]
    return found


def _changes(free: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    if free.keys() >= set(_TOGETHER):
        yield from (dict.fromkeys(_TOGETHER, value) for value in _USUAL[_TOGETHER[0]])
    for size in range(3):
        for names in combinations(free, size):
            for values in product(*(free[name] for name in names)):
                yield dict(zip(names, values, strict=True))
