"""The reduction: who divides by what, so that microbatches and ranks add up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.transform import group_size, microbatches, take_rows, with_counts
from loss_conformance.checks.conditions import looks_coupled, no_rows, unless
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.tolerance import value_tolerance
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["duplicate_rows", "microbatch"]


def _adds_up(trial: Trial) -> str | None:
    if trial.facts.contract.normalizer == "local":
        return f"normalizer = 'local' ({trial.facts.origin['normalizer']})"
    return unless("coupled", "stochastic")(trial) or no_rows(trial)


@check(
    group="reduction",
    statement="With the global counts given, the losses of unequal microbatches sum to that of the whole batch, gradient included.",
    over=("full", "typical", "holes", "absent_rows"),
    why="Gradient accumulation and data parallelism split the batch; a mean of means weights short sequences too much.",
    cause="dividing by this microbatch's own count instead of global_valid_toks or global_valid_seqs.",
    fix="Divide by the global count the batch carries; fall back to the local one only when it is absent.",
    seen_in="huggingface/transformers#34191",
    applies=_adds_up,
    own_batch=True,
)
def microbatch(trial: Trial) -> None:
    case = with_counts(trial.case)
    groups = len(case.rows) // group_size(case)
    if groups < 2:
        raise NotExercised("one group of rows cannot be split")
    whole = trial.evaluate(case)
    for parts in (microbatches(case, [0, 1, groups]), microbatches(case, list(range(groups + 1)))):
        pieces = [trial.evaluate(part) for part in parts]
        summed = torch.stack([piece.value for piece in pieces]).sum()
        shares = " + ".join(number(piece.value) for piece in pieces)
        sizes = ", ".join(str(len(part.rows)) for part in parts)
        change = f"split into microbatches of {sizes} rows: {shares} = {number(summed)}"
        tolerance = value_tolerance(whole, case, trial.bench.eps)
        # Every part contributes rounding of its own magnitude: parts of opposite sign cancel.
        bound = tolerance.bound + sum(value_tolerance(p, case, trial.bench.eps).bound for p in pieces)
        if not bool((summed - whole.value).abs() <= bound):
            raise Broken(summed, whole.value, changed=change, tolerance=f"{bound:.1e}", **_coupled_guess(trial))
        trial.require_gradients(_joined(parts, pieces), whole.gradients, change, **_coupled_guess(trial))
        totals = {name: torch.stack([p.parameters[name] for p in pieces]).sum(0) for name in whole.parameters}
        trial.require_gradients(totals, whole.parameters, change, **_coupled_guess(trial))


@check(
    group="reduction",
    statement="Repeating every row leaves a mean unchanged (and doubles a sum).",
    over=("full", "typical"),
    why="A loss whose scale follows the batch size changes the learning rate with it.",
    cause="a divisor that does not grow with the number of terms, or grows faster.",
    fix="Divide by the number (or summed weight) of the terms; declare Contract(normalizer='sum') when a sum is meant.",
    seen_in="volcengine/verl@4d722b176",
    applies=lambda trial: _coupled_by_contract(trial) or unless("stochastic")(trial) or no_rows(trial),
    own_batch=True,
)
def duplicate_rows(trial: Trial) -> None:
    trial.compare_in_float32()
    base = trial.finite_base
    size = group_size(trial.case)
    groups = torch.arange(len(trial.case.rows)).reshape(-1, size)
    doubled = take_rows(trial.case, groups.repeat(2, 1).flatten())
    counts = {s.key: 2 * trial.case.tensor(s) for s in trial.case.slots() if s.role == "count"}
    got = trial.evaluate(doubled.with_tensors(counts))
    # Measured to compare rows, the loss must still take the same one twice, whatever it then gives.
    coupled = unless("coupled")(trial)
    if coupled is not None:
        raise NotExercised(coupled)
    sums = trial.facts.contract.normalizer == "sum"
    wanted = 2 * base.value if sums else base.value
    promised = trial.facts.promised("normalizer") or trial.facts.promised("level")
    twice = not sums and abs(float(got.value) - 2 * float(base.value)) <= 4 * trial.value_tolerance(base).bound
    trial.require_value(
        got,
        wanted,
        "every row twice" + (", global counts doubled" if counts else ""),
        guessed=(not promised and not counts) or looks_coupled(trial),
        declare="Contract(normalizer='sum')" if twice else "",
    )


def _coupled_by_contract(trial: Trial) -> str | None:
    return unless("coupled")(trial) if trial.facts.promised("coupled") else None


def _coupled_guess(trial: Trial) -> dict[str, Any]:
    return {"guessed": True, "declare": "Contract(coupled=True)"} if looks_coupled(trial) else {}


def _joined(parts: list[Case], pieces: list[Evaluation]) -> dict[str, Tensor]:
    joined = {}
    for slot in parts[0].slots():
        if slot.key in pieces[0].gradients and slot.row_axis is not None:
            joined[slot.key] = torch.cat([piece.gradients[slot.key] for piece in pieces], dim=slot.row_axis)
    return joined
