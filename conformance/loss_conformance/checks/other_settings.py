"""The loss under other settings than those in force: constructed again, and evaluated where it takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import torch

from loss_conformance.cases.case import Case
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.subject.source_code import compared_words
from loss_conformance.trial import NotExercised, Trial

__all__ = ["evaluated", "evaluated_with", "named_values", "other_values", "rebuilt", "rebuilt_with_each"]


SWITCHED_ON: Final = 0.5
"""What a number is set to that is 0."""


def rebuilt(trial: Trial, changed: Mapping[str, Any]) -> Any:
    """Return the loss constructed again with these settings changed.

    Raises:
        NotExercised: it refuses them.
    """
    rebuild = trial.bench.subject.rebuild
    assert rebuild is not None
    try:
        return rebuild(changed)
    except Exception as refused:
        raise NotExercised(f"it refuses {dict(changed)}: {refused}") from None


def rebuilt_with_each(trial: Trial, name: str, values: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield (value, loss) for the values of a setting with which it can be constructed again."""
    for value in values:
        try:
            loss = rebuilt(trial, {name: value})
        except NotExercised:
            continue
        yield value, loss


def named_values(trial: Trial, name: str) -> list[Any]:
    """Return the values of a setting that its contract lists, or else the words its code compares it with."""
    option, subject = trial.facts.contract.options.get(name), trial.bench.subject
    if option is not None:
        return [] if option.inert else [*option.values]
    return [*compared_words(subject.loss, name)] if isinstance(subject.settings.get(name), str) else []


def other_values(trial: Trial, name: str) -> list[Any]:
    """Return other values of a setting than the one in force: those it is known to have, else the nearest of its kind."""
    value = trial.bench.subject.settings[name]
    if name in trial.facts.contract.options or isinstance(value, str):
        return [other for other in named_values(trial, name) if other != value]
    if isinstance(value, bool):
        return [not value]
    return [2 * value if value else SWITCHED_ON] if isinstance(value, float) else []


def evaluated_with(trial: Trial, case: Case, changed: Mapping[str, Any]) -> Evaluation | None:
    """Return L with these settings changed; ``None`` where the loss does not take them, or gives nothing finite."""
    try:
        return evaluated(trial, case, rebuilt(trial, changed))
    except NotExercised:
        return None


def evaluated(trial: Trial, case: Case, loss: Any) -> Evaluation | None:
    """Return L of a loss so constructed; ``None`` where it raises, or gives nothing finite."""
    try:
        got = trial.evaluate(case, loss=loss)
    except (LossRaised, Malformed):
        return None
    return got if bool(torch.isfinite(got.value)) else None
