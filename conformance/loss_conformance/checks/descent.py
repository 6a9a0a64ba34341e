"""A table of numbers for a model, trained on one case: where following the gradient leads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.slot import Slot
from loss_conformance.evaluation import Evaluation
from loss_conformance.trial import Trial

__all__ = ["descended", "table_is_known"]

FREE: Final = ("logits", "values", "rewards", "embeddings")


def table_is_known(slot: Slot) -> bool:
    """Return whether a table of free numbers can stand for what fills this slot."""
    return not slot.limited and slot.role in (*FREE, "logprobs")


def descended(trial: Trial, slots: list[Slot], rate: float, steps: int) -> Iterator[Evaluation]:
    """Yield the loss at the start and after each step of a table of numbers, one per entry of these trainable inputs.

    Each step moves the steepest entry by ``rate``; there are no more where the gradient is 0 or not finite. (The optimisers
    of torch import its compiler, a second and a half.)
    """
    tables = {slot.key: _table(slot, trial.case.tensor(slot)) for slot in slots}
    for step in range(steps + 1):
        got = trial.evaluate(trial.case.with_tensors({slot.key: _model(slot, tables[slot.key]) for slot in slots}))
        yield got
        if step == steps:
            return
        leaves = {key: table.requires_grad_() for key, table in tables.items()}
        outputs = {slot.key: _model(slot, leaves[slot.key]) for slot in slots}
        through_model = torch.stack([(got.gradients[key].to(x) * x).sum() for key, x in outputs.items()]).sum()
        slopes = torch.autograd.grad(through_model, list(leaves.values()))
        steepest = max(float(slope.abs().amax()) for slope in slopes)
        if not 0.0 < steepest < float("inf"):
            return
        tables = {key: (t - rate * g / steepest).detach() for (key, t), g in zip(leaves.items(), slopes, strict=True)}


def _table(slot: Slot, x: Tensor) -> Tensor:
    """Return the parameters whose model output is ``x``."""
    if slot.role != "logprobs" or slot.shape[-1:] == ("V",):
        return x.clone()
    below_one = x.clamp(max=-1e-6)
    return below_one - torch.log(-torch.expm1(below_one))


def _model(slot: Slot, table: Tensor) -> Tensor:
    """Return the input a table stands for: log-probabilities stay log-probabilities whatever the optimiser does."""
    if slot.role != "logprobs":
        return table
    return torch.log_softmax(table, -1) if slot.shape[-1:] == ("V",) else torch.nn.functional.logsigmoid(table)
