"""How a tensor inside an argument is called: ``batch["advantages"]``, and what such an argument is called itself."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["BATCHES", "OUTPUTS", "bare", "holder_of", "written"]

BATCHES: Final = frozenset(
    {
        *("batch", "data", "input_data", "minibatch", "mini_batch", "micro_batch", "train_batch", "experience"),
        *("experiences", "rollout", "rollouts", "rollout_batch", "sample_batch", "batch_data", "data_batch", "inputs"),
    }
)
"""Arguments that hold what was collected before the step."""

OUTPUTS: Final = frozenset(
    {"outputs", "output", "model_output", "model_outputs", "out", "preds", "predictions", "student_outputs"}
)
"""Arguments that are what a model computed: one tensor, or an object that holds its logits."""

_WRITTEN: Final = re.compile(r'(\w+)\["(\w+)"\]')


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
