"""The baseline: the same value and gradient as a reference loss, or as any other."""

from __future__ import annotations

from loss_conformance.checks.registry import check
from loss_conformance.comparison import Comparison
from loss_conformance.trial import NotExercised, Trial

__all__ = ["baseline_gradient", "baseline_value"]

OVER = (
    "typical",
    "on_policy",
    "off_policy",
    "full",
    "holes",
    "one_token",
    "one_row",
    "square",
    "absent_rows",
    "saturated",
)


def _has_baseline(trial: Trial) -> str | None:
    return None if trial.bench.comparison is not None else "no baseline is declared or given"


@check(
    group="baseline",
    statement="L(batch) equals the baseline's value.",
    over=OVER,
    why="A constant factor, an exchanged term or another convention is seen by nothing but an independent reference.",
    cause="a dropped factor, another reduction, or a different convention for an option of the same name.",
    fix="Compare term by term with the reference implementation; it reads like the equation.",
    seen_in="linkedin/Liger-Kernel@2de93647",
    applies=_has_baseline,
)
def baseline_value(trial: Trial) -> None:
    comparison = _comparison(trial)
    got, wanted = comparison.both(trial)
    trial.require_value(got, wanted, f"compared with {comparison.name}")


@check(
    group="baseline",
    statement="The gradient of L(batch) equals the baseline's.",
    over=OVER,
    why="Two losses can agree in value everywhere and train differently.",
    cause="a stop-gradient in one and not in the other, or a custom backward.",
    fix="Compare what is detached with the reference implementation.",
    seen_in="NVIDIA-NeMo/RL@33bce20d7",
    applies=_has_baseline,
    requires=("scalar_output", "baseline_value"),
)
def baseline_gradient(trial: Trial) -> None:
    comparison = _comparison(trial)
    got, wanted = comparison.both(trial)
    if not wanted.gradients:
        raise NotExercised(f"{comparison.name} trains no input that this loss trains")
    trial.require_gradients(got.gradients, wanted.gradients, f"compared with {comparison.name}")


def _comparison(trial: Trial) -> Comparison:
    comparison = trial.bench.comparison
    assert comparison is not None
    trial.compare_in_float32()
    return comparison
