"""Defaults: what an optional input means where it is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.documents import DOCUMENTS
from loss_conformance.cases.slot import BATCH, MODEL_OUTPUTS, Slot
from loss_conformance.cases.transform import with_counts
from loss_conformance.checks.conditions import looks_coupled, unless
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.trial import Broken, NotExercised, Trial
from loss_reference.vocabulary import BATCH_FIELDS, MODEL_OUTPUT_FIELDS

__all__ = ["counts_left_out", "sample_mask_left_out", "token_mask_left_out"]

COUNTS: Final = ("batch.global_valid_toks", "batch.global_valid_seqs")
VOCABULARY: Final = {f"{BATCH}.{name}" for name in BATCH_FIELDS} | {
    f"{MODEL_OUTPUTS}.{name}" for name in MODEL_OUTPUT_FIELDS
}


@check(
    group="reduction",
    statement="Without the global counts L is what it is with the counts of this very batch, gradient included.",
    over=("full", "typical", "holes"),
    why="On one rank and without accumulation both are one number; a loss twice as large there doubles the learning rate.",
    cause="pairs divided by the number of rows, one count taken for the other, or counts of entries where weights are summed.",
    fix="count = batch.get('global_valid_toks', mask.sum()); for pairs global_valid_seqs / 2, or the sum of pair weights.",
    seen_in="",
    applies=lambda trial: unless("coupled")(trial) or _unless_global(trial),
    own_batch=True,
)
def counts_left_out(trial: Trial) -> None:
    trial.compare_in_float32()
    counts = [slot for slot in trial.case.schema.slots if slot.kind in COUNTS and slot.optional]
    if not counts or any(slot.kind in COUNTS and not slot.optional for slot in trial.case.schema.slots):
        raise NotExercised("it needs its global counts, or reads none")
    bare = trial.case
    for slot in counts:
        bare = bare.without(slot.key)
    if float(bare.weight.sum()) < 2.0:
        raise NotExercised("fewer than two terms, where a divisor may be clamped")
    if not bool(bare.trained.any(1)[bare.rows != 0].all()):
        raise NotExercised("an answer without tokens is a row of the batch to some, and none to others")
    promised = trial.facts.origin.get("normalizer") == "declared"
    weighted = any(slot.kind not in VOCABULARY for slot in trial.case.slots())
    trial.require_same(
        _evaluated(trial, bare, " and ".join(slot.name for slot in counts)),
        trial.evaluate(with_counts(bare)),
        f"{' and '.join(slot.key for slot in counts)} left out",
        # Weights of its own may be what the loss sums where no count is given.
        guessed=trial.foreign or weighted or not promised or looks_coupled(trial),
        declare="" if promised else "Contract(normalizer=...)",
    )


@check(
    group="reduction",
    statement="Without sample_mask L is what it is with weights of 1, gradient included.",
    over=("full", "typical", "holes"),
    why="The path nobody tests: whoever trains without row weights gets another loss.",
    cause="a branch of its own with another divisor, or None used as a tensor.",
    fix="w = batch.get('sample_mask'); w = torch.ones(B) if w is None else w; then one formula.",
    seen_in="",
    own_batch=True,
)
def sample_mask_left_out(trial: Trial) -> None:
    trial.compare_in_float32()
    slot = trial.case.schema.find("batch.sample_mask")
    if slot is None or not slot.optional or slot.key not in trial.case.tensors:
        raise NotExercised("it needs sample_mask, or does not read it")
    ones = trial.case.with_tensors({slot.key: torch.ones_like(trial.case.tensor(slot))})
    trial.require_same(
        _evaluated(trial, trial.case.without(slot.key), slot.name),
        trial.evaluate(ones),
        f"{slot.key} left out",
        guessed=trial.foreign,
    )


@check(
    group="reduction",
    statement="Without its mask of tokens, or the labels that serve as one, L is what it is with every token trained.",
    over=("full", "typical"),
    severity=Severity.ADVICE,
    why="The path nobody tests: whoever has nothing to mask trains with another learning rate.",
    cause="a mean over all entries, classes included, beside a sum over classes divided by the number of tokens.",
    fix="mask = torch.ones_like(tokens) if mask is None else mask; then one formula.",
    seen_in="huggingface/trl#4105",
    applies=lambda trial: None if _optional_masks(trial.case) else "it has no mask of tokens that may be left out",
    own_batch=True,
)
def token_mask_left_out(trial: Trial) -> None:
    trial.compare_in_float32()
    for slot in _optional_masks(trial.case):
        every, other = (trial.evaluate(case) for case in _with_every_token(trial.case, slot))
        if any(trial.moves(every, other)):
            continue  # these labels are more than a mask
        try:
            got = trial.evaluate(trial.case.without(slot.key))
        except (LossRaised, Malformed):
            continue
        trial.require_same(got, every, f"{slot.key} left out, instead of every token trained")
        return
    raise NotExercised("what may be left out is more than a mask, or may not be left out here")


def _optional_masks(case: Case) -> list[Slot]:
    masks = [slot for slot in case.slots() if slot.optional and slot.token_axis is not None]
    return [slot for slot in masks if (slot.role == "mask" and slot.kind != DOCUMENTS) or slot.ignore is not None]


def _with_every_token(case: Case, slot: Slot) -> Iterator[Case]:
    """Yield the case with every token trained, and with other labels where labels say so."""
    labels = (0, 1) if slot.ignore not in (0, 1) else (2, 3)
    for label in (1, 1) if slot.role == "mask" else labels:
        yield case.with_tensors({slot.key: torch.full_like(case.tensor(slot), label)})


def _unless_global(trial: Trial) -> str | None:
    contract = trial.facts.contract
    if contract.family == "composite":
        return "family = 'composite': its parts may divide differently"
    return None if contract.normalizer == "global" else f"normalizer = {contract.normalizer!r}"


def _evaluated(trial: Trial, case: Case, left_out: str) -> Evaluation:
    try:
        return trial.evaluate(case)
    except LossRaised as raised:
        if any(name in str(raised) for name in left_out.split(" and ")):
            raise NotExercised(f"it says that it needs {left_out}") from None
        raise Broken(
            f"{raised.where} raised {raised}",
            "a loss, or an error that names what is missing",
            changed=f"{left_out} left out, which is read with .get",
            traceback=raised.traceback,
            guessed=True,
        ) from None
