"""Settings under the names other libraries give them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from loss_conformance.subject.subject import Subject
from loss_reference.settings import Setting

__all__ = ["settings_in_force", "shared_settings"]

_BOTH_SIDES: Final = "clip clip_range cliprange clip_eps eps_clip clip_epsilon epsilon clip_ratio clip_param ppo_clip"
_OTHER_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "ratio_clip_min": (
        *["epsilon_low", "eps_low", "clip_ratio_low", "cliprange_low", "eps_clip_low", "clip_low"],
        *_BOTH_SIDES.split(),
    ),
    "ratio_clip_max": (
        *["epsilon_high", "eps_high", "clip_ratio_high", "cliprange_high", "eps_clip_high", "clip_high", "clip_higher"],
        *_BOTH_SIDES.split(),
    ),
    "value_clip": (
        *["cliprange_value", "vf_clip", "clip_range_vf", "value_cliprange", "value_clip_range"],
        *_BOTH_SIDES.split(),
    ),
    "ratio_clip_c": ("clip_ratio_c", "dual_clip", "clip_c"),
    "temperature": ("T", "tau", "temp"),
    "label_smoothing": ("smoothing", "dpo_label_smoothing"),
    "beta": ("dpo_beta", "beta_dpo", "kto_beta", "simpo_beta", "cpo_beta", "orpo_beta", "loss_beta"),
}
"""Setting of a reference loss to what it is called elsewhere, the closest name first."""

_PLAIN: Final = (bool, float, str)

_PRODUCTS: Final = {"gamma": ("gamma_beta_ratio", "beta")}
"""Setting of a reference loss to settings elsewhere whose product it is."""


def settings_in_force(subject: Subject) -> dict[str, Any]:
    """Return the settings of a loss; of one that was handed over ready made, what it holds under names of its own."""
    held = {} if subject.rebuild is not None else getattr(subject.loss, "__dict__", {})
    plain = {name: value for name, value in held.items() if not name.startswith("_") and type(value) in _PLAIN}
    return {**plain, **subject.settings}


def shared_settings(given: Mapping[str, Any], known: Mapping[str, Setting[Any]]) -> dict[str, Any]:
    """Return the settings of another loss that a reference loss has too, by the reference's names.

    A word the reference does not know is another library's, and None what is not set.

    Args:
        given: the settings of the other loss.
        known: the settings of the reference.
    """
    shared = {
        name: value
        for name, value in given.items()
        if name in known and not (value is None or (isinstance(value, str) and value not in known[name].choices))
    }
    for name, factors in _PRODUCTS.items():
        numbers = [given.get(factor) for factor in factors]
        if name in known and name not in shared and all(type(number) is float for number in numbers):
            shared[name] = math.prod(numbers)
    for name, others in _OTHER_NAMES.items():
        found = next((given[other] for other in others if type(given.get(other)) is float), None)
        if name in known and name not in shared and found is not None:
            shared[name] = found
    return shared
