"""Configs in which one setting is read: the setting, and what its conditions ask of others."""

from __future__ import annotations

from typing import Any

from loss_reference.relevance import Condition
from loss_reference.settings import settings_of

REQUIRED: dict[tuple[str, Any], dict[str, Any]] = {
    ("aggregation", "fixed"): {"max_length": 4.0},
    ("matched_weight", 0): {"unmatched_weight": 1.0},
    ("matched_weight", 0.5): {"unmatched_weight": 0.5},
    ("unmatched_weight", 0.5): {"matched_weight": 0.5},
}
"""What a value cannot do without."""


def meeting(cls: type, condition: Condition) -> dict[str, Any]:
    """Return settings at which the condition holds of ``cls``, none where its defaults meet it."""
    setting = settings_of(cls)[condition.setting]
    if condition.among:
        value = condition.values[0]
    else:
        option = cls.contract.options.get(condition.setting)  # type: ignore[attr-defined]
        tried = [setting.default, *(option.values if option else ()), *setting.choices, 0.5]
        value = next(value for value in tried if value not in condition.values)
    return (
        {} if value == setting.default else {condition.setting: value, **REQUIRED.get((condition.setting, value), {})}
    )


def failing(cls: type, condition: Condition) -> dict[str, Any]:
    """Return settings at which the condition does not hold of ``cls``, nor what would do in its place."""
    setting = settings_of(cls)[condition.setting]
    if condition.among:
        option = cls.contract.options.get(condition.setting)  # type: ignore[attr-defined]
        tried = [
            setting.default,
            *(option.values if option else ()),
            *setting.choices,
            *((not setting.default,) if isinstance(setting.default, bool) else ()),
            (1.0, 2.0),
        ]
        value = next(value for value in tried if value not in condition.values)
    else:
        value = condition.values[0]
    found = {condition.setting: value, **REQUIRED.get((condition.setting, value), {})}
    for other in condition.otherwise:
        found |= failing(cls, other)
    return found


def read_at(cls: type, key: str, value: Any) -> dict[str, Any]:
    """Return a config with ``key`` at ``value`` that ``cls`` accepts."""
    setting = next(setting for setting in settings_of(cls).values() if setting.key == key)
    config = {key: value, **REQUIRED.get((key, value), {})}
    if value != setting.default:
        for condition in setting.read_when:
            config = meeting(cls, condition) | config
    return config
