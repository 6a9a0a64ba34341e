"""How many neighbouring rows belong together, by what a loss calls that: answers to one prompt."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

from loss_conformance.subject.signatures import parameters_of

__all__ = ["LARGEST_GROUP", "named_groups", "names_a_group"]

LARGEST_GROUP: Final = 16
"""Groups larger than this would make every case a slow one."""

_OF_ANSWERS: Final = re.compile(
    r"(.*_)?(group_size|num_generations?|(n_)?samples_per_prompt|rollout_n|n_rollouts|num_rollouts"
    r"|answers_per_prompt|responses_per_prompt)",
    re.IGNORECASE,
)
_OF_ANYTHING: Final = re.compile(r"(.*_)?(num_samples|n_samples|k)", re.IGNORECASE)
"""Names of other numbers as well, which are rarely more than two."""


def names_a_group(name: str, value: object) -> bool:
    """Return whether a setting is called as the number of answers to one prompt is, and may be one."""
    if type(value) is not int or not 2 <= value <= LARGEST_GROUP:
        return False
    return _OF_ANSWERS.fullmatch(name) is not None or (value > 2 and _OF_ANYTHING.fullmatch(name) is not None)


def named_groups(loss: Any) -> tuple[int, ...]:
    """Return the sizes of groups that the defaults, the keywords or the attributes of a loss name."""
    given = {parameter.name: parameter.default for parameter in parameters_of(loss)}
    given |= loss.keywords if isinstance(loss, functools.partial) else getattr(loss, "__dict__", {})
    return tuple(dict.fromkeys(value for name, value in given.items() if names_a_group(name, value)))
