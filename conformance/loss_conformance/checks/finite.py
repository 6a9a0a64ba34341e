"""Finite values and gradients on every legal input, and the declared answer on an empty one."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.plan import SITUATIONS
from loss_conformance.checks.registry import check
from loss_conformance.checks.similarities import similarities
from loss_conformance.evaluation import Evaluation, LossRaised
from loss_conformance.facts.coupling import Coupling
from loss_conformance.guard import out_of_memory
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["empty_batch", "finite_gradient", "finite_value", "first_nonfinite"]

FAR_BELOW: Final = -60.0
"""A score that no softmax notices beside ordinary ones."""

LEGAL: Final = tuple(situation for situation in SITUATIONS if situation not in ("all_masked", "all_absent"))


@check(
    group="finite",
    statement="L(batch) is finite in float32 on every legal batch.",
    over=LEGAL,
    why="One NaN in the loss destroys the weights at the next optimiser step.",
    cause="log or division of something that can be 0, exp of something large, 0 * inf where -inf logits meet probability 0.",
    fix="Stay in log space (logsigmoid, log_softmax, logsumexp, log1p, expm1); clamp denominators and exponents.",
    seen_in="huggingface/trl@57ba9b93a",
    own_batch=True,
)
def finite_value(trial: Trial) -> None:
    _require_rows_to_compare(trial)
    got = trial.in_float32
    if not bool(torch.isfinite(got.value)) and not _infinity_is_right(trial):
        raise Broken(
            f"{number(got.value)}{similarities(trial, trial.case)}",
            "a finite number",
            guessed=_filtered(trial) or _without_length(trial),
        )


@check(
    group="finite",
    statement="The gradient of L(batch) is finite in float32 on every legal batch.",
    over=LEGAL,
    why="The value can look healthy for the step whose backward destroys the weights.",
    cause="clamp or where after the operation that overflows (0 * inf in its backward), or sqrt and norm at 0.",
    fix="Make the input safe before the operation: where(mask, x, 0), clamp before exp, sqrt of something above 0.",
    seen_in="pytorch/pytorch#89543",
    requires=("scalar_output", "finite_value"),
    own_batch=True,
)
def finite_gradient(trial: Trial) -> None:
    _require_rows_to_compare(trial)
    got = trial.in_float32
    where = first_nonfinite(got)
    if where and not _infinity_is_right(trial):
        said = f"{where}, with a loss of {number(got.value)}"
        guessed = _filtered(trial) or _perfect(trial) or _without_length(trial)
        raise Broken(said, "finite entries everywhere", guessed=guessed)


@check(
    group="finite",
    statement="On a batch with nothing left to train on, L is exactly 0 (or as declared), its gradient 0, its graph attached.",
    over=("all_masked", "all_absent"),
    why="A microbatch of padding alone is ordinary; NaN from 0/0 there stops the run, and a graph-less 0 crashes backward.",
    cause="a sum divided by a count of 0, the mean of an empty selection, or torch.tensor(0.) returned early.",
    fix="Divide by mask.sum().clamp(min=1), and return (x * 0).sum() rather than a fresh zero.",
    seen_in="PrimeIntellect-ai/prime-rl@e2e6f9ab1",
)
def empty_batch(trial: Trial) -> None:
    policy = trial.facts.contract.empty
    case = _emptied(trial)
    guess = trial.foreign and not trial.facts.promised("empty")
    try:
        got = trial.evaluate(case, dtype=torch.float32)
    except LossRaised as raised:
        if out_of_memory(raised.error):
            raise
        if policy == "error":
            return
        raise Broken(f"it raised {raised}", "exactly 0", traceback=raised.traceback, guessed=guess) from None
    if policy == "error":
        raise Broken(got.value, "an error, as the contract says")
    if policy == "nan":
        if not bool(got.value.isnan()):
            raise Broken(got.value, "nan, as the contract says")
        return
    if float(got.value) != 0.0:
        # Rows that count keep a term each, tokens or not, where terms are rows: undeclared, a finite value may be that.
        rows_count = bool((case.rows != 0).any()) and not trial.facts.promised("level")
        guess = guess or (rows_count and bool(torch.isfinite(got.value)))
        raise Broken(
            got.value, "exactly 0", guessed=guess, declare='Contract(empty="nan")' if got.value.isnan() else ""
        )
    if not got.attached and any(slot.trainable for slot in case.slots()):
        raise Broken("0, detached from the graph", "0 with the graph attached: backward() must work", guessed=guess)
    for key, gradient in got.gradients.items():
        if bool((gradient != 0).any()):
            raise Broken(f"a gradient of {key} that is not 0", "a gradient of exactly 0", guessed=guess)


def _require_rows_to_compare(trial: Trial) -> None:
    """A foreign loss over statistics of the batch need not take a batch of one row; one of answers meets it all the time.

    Of a single input that nothing else speaks of it is not even known that it has rows.
    """
    of_answers = trial.facts.contract.family == "policy_gradient"
    if not trial.foreign or of_answers or len(trial.case.rows) > 1:
        return
    alone = len(trial.case.slots()) == 1 and not trial.facts.any_promised
    if alone or trial.bench.coupling is Coupling.ROWS:
        raise NotExercised("a single row has no statistics")


def first_nonfinite(got: Evaluation) -> str:
    """Return a phrase naming the first entry of a gradient that is not finite, or the empty string."""
    for key, gradient in {**got.gradients, **got.parameters}.items():
        bad = ~torch.isfinite(gradient)
        if bool(bad.any()):
            position = ",".join(str(int(i)) for i in bad.nonzero()[0])
            return f"gradient of {key}[{position}] = {number(gradient[bad][0])}"
    return ""


def _emptied(trial: Trial) -> Case:
    """Return the case when it is empty for this loss: no row has weight, or no token is trained and terms are tokens."""
    case = trial.case
    ignoring = [slot for slot in case.slots() if slot.ignore is not None]
    masks = [slot for slot in case.slots() if slot.role == "mask"]
    if not masks and not ignoring:
        raise NotExercised("it takes no mask, so no batch is empty")
    if any(bool(torch.eq(case.tensor(slot), slot.ignore or 0).all()) for slot in ignoring):
        return case
    if not bool((case.rows != 0).any()) and any(slot.token_axis is None for slot in masks):
        return case
    level, family = trial.facts.contract.level, trial.facts.contract.family
    of_tokens = level == "token" or (level is None and family not in ("preference", "reward", "composite"))
    of_tokens_alone = [case.tensor(slot) for slot in masks if slot.token_axis is not None]
    if of_tokens and of_tokens_alone and not any(bool((mask != 0).any()) for mask in of_tokens_alone):
        return case
    raise NotExercised("its terms are sequences, and it reads no sample_mask that could take them all out")


def _filtered(trial: Trial) -> bool:
    """Return whether only a filtered vocabulary (-inf logits) shows it to a loss that never promised to take one."""
    return trial.foreign and any(_has_infinity(t) for t in trial.case.tensors.values())


def _perfect(trial: Trial) -> bool:
    """Return whether predictions that equal their targets show it, to a loss of which nothing is declared."""
    tied = trial.case.plan is not None and trial.case.plan.regime == "ties"
    return (
        tied and trial.foreign and not trial.facts.any_promised and any(s.kind == "values" for s in trial.case.slots())
    )


def _without_length(trial: Trial) -> bool:
    """Return whether an embedding of no length shows it, to a loss that never promised to take one."""
    embeddings = [slot for slot in trial.case.slots() if slot.role == "embeddings"]
    return trial.foreign and any(bool((trial.case.tensor(slot) == 0).all(-1).any()) for slot in embeddings)


def _infinity_is_right(trial: Trial) -> bool:
    """Return whether scores of -inf rightly make an answer that is not finite, or are nothing this loss should be given."""
    return any(map(_has_infinity, trial.case.tensors.values())) and (
        _limit_is_infinite(trial) or _takes_scores_one_by_one(trial)
    )


def _limit_is_infinite(trial: Trial) -> bool:
    """Return whether the exact value is infinite: replacing -inf by ever lower logits makes the loss grow without bound."""
    near, far = (float(trial.evaluate(_at_depth(trial.case, depth)).value) for depth in (-1e3, -2e3))
    return abs(far - near) > 1.0


def _takes_scores_one_by_one(trial: Trial) -> bool:
    """Return whether a loss that promised nothing has no use for a filtered vocabulary: it is no softmax over the scores.

    Through a sigmoid each, an infinite score is no word that cannot be said but an answer nobody can be wrong about.
    """
    if not trial.foreign or trial.facts.any_promised:
        return False
    base, raised = (trial.evaluate(_at_depth(trial.case, FAR_BELOW, by)) for by in (0.0, 1.0))
    return trial.moves(base, raised)[0]


def _at_depth(case: Case, depth: float, by: float = 0.0) -> Case:
    """Return the case with ``depth`` for infinite scores, and ``by`` added to all that hold some."""
    infinite = [slot for slot in case.slots() if _has_infinity(case.tensor(slot))]
    finite = {slot.key: case.tensor(slot).masked_fill(case.tensor(slot).isinf(), depth) for slot in infinite}
    return case.with_tensors({key: tensor + by for key, tensor in finite.items()})


def _has_infinity(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(torch.isinf(tensor).any())
