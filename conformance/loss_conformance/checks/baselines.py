"""Baselines: rewards of answers to one prompt count by their differences."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.cases.token_grid import policy_slopes
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["reward_shift"]

SIZES: Final = (0.5, 1.0)
"""A constant added to the rewards, once and twice: thresholds, clips and squashed rewards do not respond in proportion."""
PARTLY: Final = 0.9
"""A row answers to a shift of all rewards with less than this of its answer to its own: the others are taken off it."""


@check(
    group="symmetry",
    statement="Where the rewards of other rows are a row's baseline, a constant added to all rewards changes no gradient.",
    over=("on_policy", "full", "typical"),
    why="A baseline that takes off part of the common reward raises all answers when rewards are high, good and bad.",
    cause="the mean over the other n - 1 answers divided by n, or a mean over absent rows as well.",
    fix="baseline_i = (sum(r) - r_i) / (n - 1), or mean(r), over the rows that are present.",
    applies=lambda trial: (
        None if _reads_rewards(trial) else "it is no policy gradient whose rows look at each other's rewards"
    ),
)
def reward_shift(trial: Trial) -> None:
    trial.compare_in_float32()
    rewards = trial.case.schema.find("batch.rewards")
    present = trial.case.rows != 0
    size = trial.case.schema.group if trial.case.schema.group > 1 else len(present)
    if rewards is None or not bool((present.reshape(-1, size).sum(1) >= 2).all()):
        raise NotExercised("no two present rows to compare")
    base = _of_rows(trial, trial.case)
    together = [_of_rows(trial, _raised(trial.case, rewards, present, size)) - base for size in SIZES]
    bound = 4 * max(trial.gradient_tolerance(k, g).bound for k, g in trial.finite_base.gradients.items())
    bound *= trial.case.trained.shape[1]
    moved = together[0].abs()[present]
    if not bool((moved > bound).all()):
        return
    if not bool(((together[1] - together[0] * SIZES[1] / SIZES[0]).abs() <= 4 * bound).all()):
        return
    alone = torch.stack(
        [
            _of_rows(trial, _raised(trial.case, rewards, torch.arange(len(present)) == row, SIZES[0]))[row] - base[row]
            for row in present.nonzero().flatten().tolist()
        ]
    )
    # Alone: no baseline at all, the only answer to its prompt, or one whose reward was cut off.
    if bool((moved < PARTLY * alone.abs()).all()) and bool((together[0][present] * alone > 0).all()):
        contract, origin = trial.facts.contract, trial.facts.origin
        declared = contract.coupled and origin.get("family") == origin.get("coupled") == "declared"
        raise Broken(
            f"gradients move by {number(moved.amax())}, {number(moved.amax() / alone.abs()[moved.argmax()])} "
            f"of what a row's own reward moves",
            "no change",
            changed=f"{rewards.key} + {SIZES[0]:g} in all rows",
            guessed=not declared,
            declare="" if declared else "Contract(family='policy_gradient', coupled=True)",
        )


def _reads_rewards(trial: Trial) -> bool:
    contract = trial.facts.contract
    couples = contract.coupled or (contract.group_size or 1) > 1 or trial.bench.coupling.across
    reads = trial.case.schema.find("batch.rewards") is not None
    return reads and contract.family == "policy_gradient" and couples and not contract.stateful


def _raised(case: Case, rewards: Slot, rows: Tensor, size: float) -> Case:
    return case.with_tensors({rewards.key: case.tensor(rewards) + size * rows.to(case.tensor(rewards))})


def _of_rows(trial: Trial, case: Case) -> Tensor:
    """Return how L changes with the log-probability of each whole answer."""
    slopes = policy_slopes(case, dict(trial.evaluate(case).gradients))
    if slopes is None:
        raise NotExercised("it trains no log-probabilities of answers")
    return torch.nan_to_num(slopes).sum(1)
