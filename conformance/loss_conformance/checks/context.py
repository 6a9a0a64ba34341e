"""What a loss does with its inputs first: looks back at the prompt of a token, or sets the scale of its advantages itself."""

from __future__ import annotations

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.cases.token_grid import of_tokens
from loss_conformance.cases.transform import scramble
from loss_conformance.evaluation import Evaluation
from loss_conformance.trial import Broken, Trial

__all__ = ["looks_back", "whitens_advantages"]


def looks_back(trial: Trial, slot: Slot, base: Evaluation) -> bool:
    """Return whether a loss that feels the ids of untrained tokens only looks back at the prompt of a trained one.

    Penalties of repetition do. A loss that takes each id for the target of its own logits feels them as well, but it
    raises the score of that id, and that is a shift forgotten.
    """
    case = trial.case
    if slot.kind != "batch.input_ids" or slot.shape != ("B", "S"):
        return False
    trained = case.trained & (case.rows != 0)[:, None]
    later = trained.flip(1).cumsum(1).flip(1) - trained.long() > 0
    padding = ~case.active(slot) & ~later
    try:
        trial.require_same(trial.evaluate(scramble(case, slot, None, padding)), base)
    except Broken:
        return False
    logits = case.schema.find("model_outputs.logits")
    if logits is None or logits.key not in base.gradients:
        return True
    # of_tokens moves a gradient to the token it predicts; what it does to the token before is the question.
    slopes = of_tokens(case, logits, base.gradients[logits.key])[:, 1:]
    of_previous = slopes.gather(-1, case.tensor(slot)[:, :-1].clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return bool(of_previous[trained[:, 1:]].sum() >= -torch.finfo(torch.float32).eps)


def whitens_advantages(trial: Trial, case: Case) -> bool:
    """Return whether advantages twice as large, or all of them moved alike, leave L as it is: it normalises them itself."""
    slot = case.schema.find("batch.advantages")
    if slot is None or slot.key not in case.tensors:
        return False
    base, advantages = trial.evaluate(case), case.tensor(slot)
    others = (case.with_tensors({slot.key: changed}) for changed in (2 * advantages, advantages + 1))
    return any(trial.moves(base, trial.evaluate(other)) == (False, False) for other in others)
