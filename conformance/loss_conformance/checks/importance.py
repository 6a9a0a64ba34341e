"""Importance weights: what was sampled by another policy counts in proportion to how much likelier it is now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.token_grid import on_policy, policy_slopes
from loss_conformance.checks.conditions import declared_only, unless
from loss_conformance.checks.registry import check
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["importance_is_no_inverse"]

STEP: Final = 2.0**-5
"""By how much the sampling policy is lowered, in nats: within every usual clip."""
FEWEST: Final = 4
INVERSE: Final = 2.0**-3
"""How near the answer is to that of an inverse, as a share of the step: of its second order a sixty-fourth is left."""
SAMPLERS: Final = ("batch.generation_logprobs", "batch.prev_logprobs")


@check(
    group="direction",
    statement="An importance weight is a ratio with the sampling policy below: it is not the inverse of one.",
    over=("on_policy",),
    why="Upside down, what the sampler preferred already is trained twice as hard, and its bias is doubled, not removed.",
    cause="exp(old - new) for exp(new - old); the roles of training and inference engine exchanged.",
    fix="weight = exp(trained - sampled), detached where the loss multiplies a log-probability.",
    applies=lambda trial: unless("stochastic")(trial) or _unless_sampled(trial),
)
def importance_is_no_inverse(trial: Trial) -> None:
    sampler = _sampler(trial)
    assert sampler is not None
    inverse = answered = 0
    for case in _of_single_tokens(trial):
        for by in (-STEP, STEP):
            moved = _moved(case, sampler, by)
            if moved is None:
                continue
            before, after = _weights(trial, case), _weights(trial, moved)
            felt = before != 0
            grown = torch.log(after[felt].abs() / before[felt].abs())
            answered += int((grown.abs() > STEP / 2).sum())
            # Per nat the inverse of a ratio answers with the step itself, the ratio with its opposite.
            inverse += int(((grown - by).abs() <= INVERSE * STEP).sum())
    if answered < FEWEST:
        raise NotExercised("the sampling policy changes the weight of too few tokens to tell")
    if inverse == answered:
        name = sampler.partition(".")[2]
        raise Broken(
            f"all {answered} tokens weigh as many per cent more as {name} is raised, and less as it is lowered",
            "the other way",
            changed=f"{name} by {STEP:g} nats either way, from on policy",
            **declared_only(trial, "family"),
        )


def _sampler(trial: Trial) -> str | None:
    """Return the policy that sampled: where an engine of its own did, the old policy may stand above it in a ratio."""
    return next((kind for kind in SAMPLERS if trial.case.schema.find(kind) is not None), None)


def _unless_sampled(trial: Trial) -> str | None:
    contract = trial.facts.contract
    if contract.family != "policy_gradient":
        return f"family = {contract.family!r}"
    return None if _sampler(trial) is not None else "it reads no policy that sampled"


def _of_single_tokens(trial: Trial) -> Iterator[Case]:
    """Yield cases on policy with one trained token per row: there the ratio of an answer is that of its token."""
    route = trial.bench.route_of(trial.case)
    for plan in trial.bench.pool["on_policy"]:
        case = on_policy(trial.bench.case(replace(plan, tokens=2, mask="full"), route))
        if case is not None:
            yield case


def _moved(case: Case, kind: str, by: float) -> Case | None:
    slot = case.schema.find(kind)
    if slot is None or slot.key not in case.tensors:
        return None
    return case.with_tensors({slot.key: (case.tensor(slot) + by).clamp(max=0.0)})


def _weights(trial: Trial, case: Case) -> Tensor:
    """Return the slopes of L at all trained tokens, one-dimensional."""
    slopes = policy_slopes(case, dict(trial.evaluate(case).gradients))
    if slopes is None or not bool(torch.isfinite(slopes).all()):
        raise NotExercised("the log-probabilities receive no finite gradient, which other checks say")
    return slopes[case.trained & (case.rows != 0)[:, None]]
