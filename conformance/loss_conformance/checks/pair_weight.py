"""Pairs that are not whole: one of two answers is absent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.registry import Severity, check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["half_a_pair"]

FELT: Final = (
    "model_outputs.next_token_logprobs",
    "model_outputs.rewards",
    "batch.reference_policy_logprobs",
)
"""What the gradient of a comparison depends on. That of imitating the chosen answer, which a pair may add, does not."""
STEP: Final = 0.25


@check(
    group="masking",
    statement="A pair whose rejected row alone has weight 0 compares no more than one whose two rows have.",
    over=("full", "typical"),
    severity=Severity.ADVICE,
    why="The chosen answer is compared with padding: a pair that a filter took apart trains against nothing.",
    cause="the weight of the pair is that of its chosen row, sample_mask[0::2].",
    fix="torch.minimum(sample_mask[0::2], sample_mask[1::2]).",
    applies=lambda trial: (
        None
        if trial.facts.contract.level == "pair"
        and trial.facts.contract.family in ("preference", "reward")
        and trial.facts.promised("level")
        and trial.case.schema.paired
        and trial.case.schema.find("batch.sample_mask")
        else "it declares no comparison of pairs, or reads no sample_mask"
    ),
    own_batch=True,
)
def half_a_pair(trial: Trial) -> None:
    mask = trial.case.schema.find("batch.sample_mask")
    if mask is None or mask.key not in trial.case.tensors or bool((trial.case.rows == 0).any()):
        raise NotExercised("no batch of whole pairs with a sample_mask")
    weights = trial.case.tensor(mask).clone()
    weights[1] = 0
    halved = trial.case.with_tensors({mask.key: weights})
    got = trial.evaluate(halved)
    for slot, moved in _moved(halved):
        after = trial.evaluate(moved)
        for key, gradient in got.gradients.items():
            change = (after.gradients[key] - gradient)[0]
            bound = 4 * trial.gradient_tolerance(key, gradient).bound
            if bool((gradient[0].abs() > bound).any()) and bool((change.abs() > bound).any()):
                raise Broken(
                    f"the chosen row has gradient up to {number(gradient[0].abs().amax())}, which depends on its {slot.name}",
                    "no comparison",
                    changed=f"{mask.key}[1]: {number(trial.case.tensor(mask)[1])} → 0",
                )


def _moved(case: Case) -> Iterator[tuple[Slot, Case]]:
    """Yield the case with one of the scores of the first row made a little lower."""
    for slot in case.slots():
        if slot.kind in FELT and slot.row_axis == 0:
            tensor: Tensor = case.tensor(slot).clone()
            tensor[0] -= STEP * (1 + torch.arange(tensor[0].numel()).reshape(tensor[0].shape) % 2)
            yield slot, case.with_tensors({slot.key: tensor})
