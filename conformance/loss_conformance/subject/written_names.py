"""How a tensor inside an argument is called: ``batch["advantages"]``, and what such an argument is called itself."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["OUTPUTS", "bare", "holder_of", "holds_a_batch", "written"]

_BATCHES: Final = frozenset(
    {
        *("batch", "data", "input_data", "minibatch", "mini_batch", "micro_batch", "train_batch", "experience"),
        *("experiences", "rollout", "rollouts", "batch_data", "inputs"),
    }
)
"""Arguments that hold what was collected before the step, beside all that end in ``_batch``."""

OUTPUTS: Final = frozenset(
    {"outputs", "output", "model_output", "model_outputs", "out", "preds", "predictions", "student_outputs"}
)
"""Arguments that are what a model computed: one tensor, or an object that holds its logits."""

_WRITTEN: Final = re.compile(r'(\w+)\["(\w+)"\]')


def holds_a_batch(argument: str) -> bool:
    """Return whether an argument of this name holds what was collected before the step."""
    return argument.lower() in _BATCHES or argument.lower().endswith("_batch")


def written(argument: str, key: str) -> str:
    """Return the name of the tensor ``key`` in ``argument``, as a person writes it."""
    return f'{argument}["{key}"]'


def bare(name: str) -> str:
    """Return the name of a tensor without the argument it is in."""
    found = _WRITTEN.fullmatch(name)
    return found[2] if found else name


def holder_of(name: str) -> str | None:
    """Return the argument a tensor is in, or ``None`` where it is one itself."""
    found = _WRITTEN.fullmatch(name)
    return found[1] if found else None
