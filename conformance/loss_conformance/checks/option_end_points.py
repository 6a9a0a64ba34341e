"""End points of options: there the loss is the special case its contract names."""

from __future__ import annotations

from loss_conformance.checks.registry import check
from loss_conformance.trial import NotExercised, Trial

__all__ = ["option_end_points"]


def _declares_end_points(trial: Trial) -> str | None:
    if any(option.reduces_to for option in trial.facts.contract.options.values()):
        return None
    return "no option declares what it reduces to"


@check(
    group="options",
    statement="With an option at an end point the contract names, value and gradient are those of the named loss.",
    over=("typical", "full", "off_policy", "holes"),
    why="An option that does not switch off at 0, or crashes there, changes every run that never asked for it.",
    cause="a term left in at weight 0, a mode not forwarded, or an end point handled by a wrong special case.",
    fix="Compare the equation at the end point with that of the special case.",
    seen_in="unslothai/unsloth-zoo@3986cf01",
    applies=_declares_end_points,
)
def option_end_points(trial: Trial) -> None:
    rebuild = trial.bench.subject.rebuild
    if rebuild is None:
        raise NotExercised("an instance cannot be constructed again with other settings")
    trial.compare_in_float32()
    for name, option in trial.facts.contract.options.items():
        for value, special_case in option.reduces_to.items():
            comparison = trial.bench.compared_with(special_case, {name: value})
            got, wanted = comparison.both(trial, rebuild({name: value}))
            change = f"{name}={value!r}, compared with {special_case}"
            trial.require_value(got, wanted, change)
            trial.require_gradients(got.gradients, wanted.gradients, change)
