"""A learned scale of similarities: it stands before all of them."""

from __future__ import annotations

import re
from typing import Final

import torch
from torch import Tensor, nn

from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["scale_is_everywhere"]

SCALE: Final = re.compile(r"(.*[._])?(logit_scale|log_scale|scale)", re.IGNORECASE)
SWITCHED_OFF: Final = (-40.0, 0.0)
"""Of a logarithm, and of the scale itself: one of them leaves nothing of the similarities."""
LEFT: Final = 1e-3


@check(
    group="gradient_flow",
    statement="Where the learned scale of similarities is switched off, nothing is left that moves the embeddings.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="A direction without the scale works at temperature 1: it hardly trains, and pulls the scale of the other one off.",
    cause="the scale multiplied into the logits of one direction, the other taken from the bare similarities.",
    fix="logits = scale * a @ b.T once; cross_entropy(logits, i) + cross_entropy(logits.T, i).",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _no_scale(trial),
)
def scale_is_everywhere(trial: Trial) -> None:
    base = trial.finite_base
    name = _scales(trial.loss)[0]
    if name not in base.parameters or not bool(base.parameters[name].any()):
        raise NotExercised(f"{name} gets no gradient here, which other checks say")
    here = dict(trial.loss.named_parameters())[name].detach().to(base.parameters[name])
    usual = _pull(trial, base)
    left = []
    for value in SWITCHED_OFF:
        try:
            moved = trial.bench.caller.moved({name: value - here}, trial.bench.dtype)
            got = trial.evaluate(trial.case, loss=moved)
        except (LossRaised, Malformed):
            continue
        pull = _pull(trial, got)
        # Without a gradient of its own it is held by a clamp, and the scale is not what was asked for.
        if bool(torch.isfinite(pull)) and bool(got.parameters[name].any()):
            left.append(float(pull / usual))
    if len(left) < len(SWITCHED_OFF) or not bool(usual > 0):
        raise NotExercised(f"{name} cannot be switched off")
    if min(left) > LEFT:
        raise Broken(
            f"{number(min(left))} of the gradient of the embeddings is left",
            "none",
            changed=f"{name} at {', '.join(f'{value:g}' for value in SWITCHED_OFF)}",
        )


def _no_scale(trial: Trial) -> str | None:
    trained = [slot for slot in trial.case.slots() if slot.trainable and slot.role == "embeddings"]
    if len(trained) < 2:
        return "it compares no two embeddings"
    return None if len(_scales(trial.loss)) == 1 else "it learns no scale"


def _scales(loss: object) -> list[str]:
    if not isinstance(loss, nn.Module):
        return []
    return [name for name, p in loss.named_parameters() if p.numel() == 1 and SCALE.fullmatch(name)]


def _pull(trial: Trial, evaluation: Evaluation) -> Tensor:
    """Return the largest entry of the gradient of any embeddings."""
    keys = [slot.key for slot in trial.case.slots() if slot.role == "embeddings" and slot.key in evaluation.gradients]
    return torch.stack([evaluation.gradients[key].abs().amax() for key in keys]).amax()
