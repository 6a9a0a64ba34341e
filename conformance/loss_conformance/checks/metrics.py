"""Metrics: numbers beside the loss, for people to look at."""

from __future__ import annotations

from torch import Tensor

from loss_conformance.checks.registry import check
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["metrics_detached"]


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
