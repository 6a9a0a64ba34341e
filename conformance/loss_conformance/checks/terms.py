"""Terms: what a mean is over, token or sequence, as the contract says."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.token_grid import of_tokens, on_policy, rows_of_equal_tokens
from loss_conformance.cases.transform import group_size, with_counts
from loss_conformance.checks.conditions import declared_only, unless
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["equal_terms", "mean_of_equal_terms"]


@check(
    group="reduction",
    statement="A token weighs the same in a long row and in a short one (level token); a row weighs the same whatever its "
    "length (level sequence, length normalised).",
    over=("typical", "full"),
    why="A mean of row means gives the tokens of short answers more weight, a mean over tokens long answers: length bias.",
    cause="the mean is taken over something else than the contract says: rows first, or all tokens at once.",
    fix="Token level: sum over all tokens, divide by their number. Sequence level: divide each row by its length first.",
    seen_in="OpenRLHF/OpenRLHF@1b23ecf0",
    applies=lambda trial: unless("coupled")(trial) or _unless_level(trial),
    own_batch=True,
)
def equal_terms(trial: Trial) -> None:
    trial.compare_in_float32()
    case = rows_of_equal_tokens(trial.case)
    if case is None or group_size(case) != 1 or len(set(case.trained.sum(1).tolist())) < 2:
        raise NotExercised("its rows cannot be made equal but for their length")
    got = trial.evaluate(on_policy(case) or case)
    by_token = trial.facts.contract.level == "token"
    lengths = (case.weight != 0).sum(1)
    for slot in case.slots():
        if slot.key not in got.gradients or slot.token_axis is None:
            continue
        gradient = of_tokens(case, slot, got.gradients[slot.key])
        shares = _first_tokens(case, gradient) if by_token else _rows(case, gradient)
        tolerance = trial.gradient_tolerance(slot.key, gradient)
        apart = (shares.gradients - shares.gradients[:1]).abs().reshape(len(shares.rows), -1).amax(1)
        # A sum over a row adds up as many roundings as it has tokens.
        if bool((apart <= tolerance.bound * int(lengths.amax())).all()):
            continue
        worst = int(apart.argmax())
        one, other = int(shares.rows[0]), int(shares.rows[worst])
        entry = int((shares.gradients[worst] - shares.gradients[0]).abs().flatten().argmax())
        raise Broken(
            f"{shares.name} has gradient {number(shares.gradients[0].flatten()[entry])} in row {one} "
            f"({int(lengths[one])} tokens) and {number(shares.gradients[worst].flatten()[entry])} in row {other} "
            f"({int(lengths[other])} tokens)",
            "the same",
            changed=f"every token alike, gradient of {slot.key} for a weight of 1",
            tolerance=tolerance,
            **declared_only(trial, "level"),
        )


@check(
    group="reduction",
    statement="Where all tokens are alike, a mean over tokens, or over rows of their means, is the same however many there are.",
    over=("typical", "full"),
    why="Divided by anything but the number of its terms, an answer counts more or less by what stands around it.",
    cause="a divisor that counts the tokens of the response, or of another mask, where the sum runs over fewer.",
    fix="(terms * mask).sum() / mask.sum().clamp(min=1), one mask above and below.",
    seen_in="THUDM/slime#364",
    applies=lambda trial: unless("coupled")(trial) or _unless_level(trial) or _unless_mean(trial),
    requires=("scalar_output", "mask_value", "equal_terms"),
    own_batch=True,
)
def mean_of_equal_terms(trial: Trial) -> None:
    trial.compare_in_float32()
    most = trial.case.trained.shape[1] - 1
    # On policy: elsewhere the weight of an answer may be the product of the ratios of its tokens.
    case = on_policy(trial.case) or trial.case
    one, other = (_of_equal_tokens(case, length) for length in (1, most))
    base, got = trial.evaluate(one), trial.evaluate(other)
    if not bool(torch.isfinite(base.value)):
        raise NotExercised("it is not finite where all tokens are alike")
    if not _every_token_pulls_alike(trial, other, got):
        raise NotExercised("a token weighs by what stands before it")
    changed = f"every token alike, {most} of each row trained instead of 1"
    trial.require_value(got, base, changed, **declared_only(trial, "level"))


def _of_equal_tokens(case: Case, length: int) -> Case:
    """Return rows of equal tokens, so many of them trained, with the counts of that batch."""
    alike = rows_of_equal_tokens(case, length)
    if alike is None or group_size(case) != 1:
        raise NotExercised("its rows cannot be made equal but for their length")
    for slot in alike.slots():
        alike = alike.without(slot.key) if slot.role == "count" else alike
    counted = with_counts(alike)
    if any(slot.role == "count" and slot.key not in counted.tensors for slot in case.slots()):
        raise NotExercised("what one of its counts is a number of is not known")
    return counted


def _every_token_pulls_alike(trial: Trial, case: Case, got: Evaluation) -> bool:
    trained = case.weight != 0
    for slot in case.slots():
        if slot.key not in got.gradients or slot.token_axis is None:
            continue
        gradient = of_tokens(case, slot, got.gradients[slot.key])
        each = gradient[trained] / case.weight[trained].reshape(-1, *([1] * (gradient.dim() - 2)))
        if not bool(((each - each[:1]).abs() <= trial.gradient_tolerance(slot.key, gradient).bound).all()):
            return False
    return True


def _unless_mean(trial: Trial) -> str | None:
    normalizer = trial.facts.contract.normalizer
    if normalizer not in ("local", "global") or not trial.facts.promised("normalizer"):
        return "it is not declared to divide by a number of its terms"
    return None


class _Shares:
    """The gradients of what should weigh alike, one per row of ``rows``, each divided by its weight."""

    def __init__(self, name: str, rows: Tensor, gradients: Tensor) -> None:
        self.name, self.rows, self.gradients = name, rows, gradients


def _first_tokens(case: Case, gradient: Tensor) -> _Shares:
    # The first one of each row: what a later token weighs may well depend on what came before it.
    rows = (case.weight != 0).any(1).nonzero().flatten()
    first = (case.weight != 0)[rows].to(torch.int64).argmax(1)
    weight = case.weight[rows, first].reshape(-1, *([1] * (gradient.dim() - 2)))
    return _Shares("the first trained token", rows, gradient[rows, first] / weight)


def _rows(case: Case, gradient: Tensor) -> _Shares:
    rows = (case.weight != 0).any(1).nonzero().flatten()
    weight = case.rows[rows].reshape(-1, *([1] * (gradient.dim() - 2)))
    return _Shares("a row, all its tokens together,", rows, gradient[rows].sum(1) / weight)


def _unless_level(trial: Trial) -> str | None:
    level, family = trial.facts.contract.level, trial.facts.contract.family
    if family != "policy_gradient" and unless("surrogate_gradient")(trial):
        return unless("surrogate_gradient")(trial)  # on policy, surrogates have the gradient of what they stand for
    if level not in ("token", "sequence") or not trial.facts.promised("level"):
        return "level is not declared as token or sequence"
    if level == "sequence" and not (
        trial.facts.contract.length_normalized and trial.facts.promised("length_normalized")
    ):
        return "length_normalized is not declared"
    return None
