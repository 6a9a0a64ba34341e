"""Metrics: numbers beside the loss, for people to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loss_conformance.cases.transform import group_size, microbatches
from loss_conformance.checks.conditions import no_rows, unless
from loss_conformance.checks.registry import Severity, check
from loss_conformance.report.numbers import number
from loss_conformance.tolerance import OPERATIONS_PER_TERM
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["metrics_detached", "metrics_split", "single_numbers"]


@check(
    group="metrics",
    statement="Returned metrics are detached and finite.",
    over=("typical", "full", "on_policy", "off_policy"),
    why="A logged tensor that keeps its graph keeps the whole batch alive: memory grows until the run dies.",
    cause="a statistic stored as it came out of the computation, without .detach().",
    fix="Detach every metric, {'clip_fraction': clipped.float().mean().detach()}.",
    seen_in="huggingface/trl@768c3892c",
)
def metrics_detached(trial: Trial) -> None:
    tensors = {name: value for name, value in trial.finite_base.metrics.items() if isinstance(value, Tensor)}
    if not tensors:
        raise NotExercised("it returns no tensor beside the loss")
    for name, value in tensors.items():
        if value.requires_grad:
            raise Broken(f"the metric {name!r} keeps the graph", "a detached tensor", guessed=trial.foreign)
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise Broken(f"the metric {name!r} is not finite", "finite numbers", guessed=trial.foreign)


@check(
    group="metrics",
    statement="A metric of the whole batch is the sum, or lies between the least and the largest, of those of its microbatches.",
    over=("full", "typical", "holes", "absent_rows"),
    severity=Severity.ADVICE,
    why="Metrics are summed or averaged over microbatches and ranks; one that is neither changes with the split.",
    cause="a sum divided by the wrong count, or a ratio, square or exponential of sums taken before they are complete.",
    fix="Return sums and counts, or means over rows, tokens or pairs; form ratios and exponentials where they are logged.",
    seen_in="NVIDIA-NeMo/RL@af9f6e861",
    applies=lambda trial: unless("coupled", "stochastic", "stateful")(trial) or no_rows(trial),
    own_batch=True,
)
def metrics_split(trial: Trial) -> None:
    case = trial.case
    whole = single_numbers(trial.finite_base.metrics)
    if not whole:
        raise NotExercised("it returns no number beside the loss")
    groups = len(case.rows) // group_size(case)
    if groups < 2 or trial.bench.coupling.across:
        raise NotExercised("the batch cannot be split")
    # What is trained on says nothing to a loss that takes no mask of it.
    masked = any(slot.role == "mask" or slot.ignore is not None for slot in case.slots())
    for bounds in ([0, 1, groups], list(range(groups + 1))):
        parts = [part for part in microbatches(case, bounds) if not masked or bool((part.weight != 0).any())]
        pieces = [single_numbers(trial.evaluate(part).metrics) for part in parts]
        for name, of_whole in whole.items():
            of_parts = [piece[name] for piece in pieces if name in piece]
            if len(of_parts) == len(parts) and not _agree(of_whole, of_parts, case.terms):
                raise Broken(
                    f"the metric {name!r} is {number(of_whole)} for the whole batch",
                    f"their sum {number(sum(of_parts))}, or something between them",
                    changed=f"microbatches give {', '.join(number(x) for x in of_parts)}",
                )


def _agree(of_whole: float, of_parts: list[float], terms: int) -> bool:
    """Return whether the whole is the sum of its parts, or a mean of them weighted by some counts (so also least or largest).

    Whatever is counted, the mean lies between the parts. Metrics are often float32, whatever the loss is computed in.
    """
    magnitude = max(1.0, *map(abs, of_parts), abs(of_whole))
    near = (terms + OPERATIONS_PER_TERM) * torch.finfo(torch.float32).eps * magnitude
    if abs(of_whole - sum(of_parts)) <= near:
        return True
    return min(of_parts) - near <= of_whole <= max(of_parts) + near


def single_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are one finite number each, tensors or not."""
    found = {}
    for name, value in metrics.items():
        single = isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
        if single or (isinstance(value, int | float) and not isinstance(value, bool)):
            number_ = float(value)
            if abs(number_) < float("inf"):
                found[str(name)] = number_
    return found
