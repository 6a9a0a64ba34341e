"""Terms: what a mean is over, token or sequence, and what it divides by, as the contract says."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.token_grid import of_tokens, on_policy, rows_of_equal_tokens
from loss_conformance.cases.transform import group_size, take_rows, with_counts
from loss_conformance.checks.conditions import looks_coupled, unless
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["common_divisor", "divisor", "equal_terms"]

COUNT_OF: Final = {
    "token": "batch.global_valid_toks",
    "sequence": "batch.global_valid_seqs",
    "pair": "batch.global_valid_seqs",
}


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
            **_declared_only(trial, "level"),
        )


@check(
    group="reduction",
    statement="A global mean divides by the count of its terms: tokens by global_valid_toks, rows and pairs by global_valid_seqs.",
    over=("typical", "full"),
    why="Divided by the other count, the scale of the gradient follows the length of the answers instead of their number.",
    cause="the wrong one of the two counts, or a part of the loss divided by each.",
    fix="Level token: divide by global_valid_toks. Level sequence: by global_valid_seqs. Level pair: by half of it.",
    seen_in="OpenRLHF/OpenRLHF@1b23ecf0",
    applies=lambda trial: unless("coupled")(trial) or _unless_global(trial),
    own_batch=True,
)
def divisor(trial: Trial) -> None:
    trial.compare_in_float32()
    # Large enough that no clamp(min=1) acts, even on pairs.
    case = with_counts(trial.case)
    case = case.with_tensors({s.key: case.tensor(s) + 4.0 for s in case.slots() if s.role == "count"})
    base = trial.evaluate(case)
    if not bool(torch.isfinite(base.value)):
        raise NotExercised("the loss is not finite on this case, which is the finite checks' to say")
    own = COUNT_OF[str(trial.facts.contract.level)]
    # Pairs are often joined by a likelihood term, which is a mean over tokens.
    joined = own != COUNT_OF["token"] and set(COUNT_OF.values()) <= {slot.kind for slot in case.slots()}
    for slot in case.slots():
        if slot.kind not in COUNT_OF.values():
            continue
        doubled = trial.evaluate(case.with_tensors({slot.key: 2 * case.tensor(slot)}))
        share = 0.5 if slot.kind == own else 1.0
        how: dict[str, Any] = {"changed": f"{slot.name} doubled", **_declared_only(trial, "level", doubtful=joined)}
        trial.require_value(doubled, share * base.value, **how)
        halved = {key: share * gradient for key, gradient in base.gradients.items()}
        trial.require_gradients(doubled.gradients, halved, **how)


@check(
    group="reduction",
    statement="Taking a row (group) out multiplies the gradients of all others by one and the same number.",
    over=("full", "typical", "holes"),
    why="A mean has one divisor; where tokens of one row change their shares, they are averaged along another axis.",
    cause="a mean over the rows of each position, sum(0) / mask.sum(0), where one over the tokens of each row is meant.",
    fix="Sum over dim=1 first, then over rows; divide once, by the count of what the contract calls a term.",
    seen_in="",
    applies=lambda trial: unless("coupled")(trial) or _unless_one_level(trial),
    own_batch=True,
)
def common_divisor(trial: Trial) -> None:
    trial.compare_in_float32()
    base = trial.finite_base
    size = group_size(trial.case)
    rows = len(trial.case.rows)
    if rows < 3 * size or any(slot.role == "pairs" for slot in trial.case.slots()):
        raise NotExercised("fewer than two rows would be left")
    left = torch.arange(rows - size)
    got = trial.evaluate(take_rows(trial.case, left))
    for slot in trial.case.slots():
        if slot.key not in base.gradients or slot.row_axis is None:
            continue
        before = base.gradients[slot.key].index_select(slot.row_axis, left).flatten()
        after = got.gradients[slot.key].flatten()
        if not bool((before != 0).any()):
            continue
        largest = int(before.abs().argmax())
        factor = after[largest] / before[largest]
        apart = (after - factor * before).abs()
        tolerance = trial.gradient_tolerance(slot.key, torch.stack((before, after)))
        if not bool((apart <= tolerance.bound * (1.0 + float(factor.abs()))).all()):
            worst = int(apart.argmax())
            raise Broken(
                f"one gradient of {slot.key} is multiplied by {number(factor)}, another goes from {number(before[worst])} "
                f"to {number(after[worst])}",
                f"{number(factor * before[worst])}",
                changed=f"the last {'row' if size == 1 else f'{size} rows'} taken out",
                tolerance=tolerance,
                **_declared_only(trial, "level"),
            )


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


def _unless_global(trial: Trial) -> str | None:
    facts = trial.facts
    if facts.contract.family == "composite":
        return "family = 'composite': its parts may be of different levels"
    if facts.contract.level not in COUNT_OF or not facts.promised("level"):
        return "no level is declared that is counted globally"
    if facts.contract.normalizer != "global" or not facts.promised("normalizer"):
        return "normalizer = 'global' is not declared"
    return None


def _unless_one_level(trial: Trial) -> str | None:
    if trial.facts.contract.normalizer == "global":
        return "the global counts it divides by do not change with its rows"
    if trial.facts.contract.family == "composite":
        return "family = 'composite': its parts may be of different levels"
    if trial.facts.contract.level == "pair" or trial.facts.contract.family == "preference":
        return "preferences are often joined by a likelihood term, which is a mean over tokens"
    return None if trial.facts.promised("level") else "level is not declared"


def _declared_only(trial: Trial, fact: str, doubtful: bool = False) -> dict[str, Any]:
    """Return how to report a law that rests on ``fact``: a subclass inherits it, and may add terms of another kind."""
    declared = trial.facts.origin.get(fact) == "declared" and not doubtful and not looks_coupled(trial)
    return {} if declared else {"guessed": True, "declare": f"Contract({fact}=...)"}
