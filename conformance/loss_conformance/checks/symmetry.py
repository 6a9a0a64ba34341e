"""Symmetry: the order of the batch means nothing, and a row minds its own business."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from loss_conformance.cases.transform import group_size, other_content, select_rows
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["batch_permutation", "row_independence"]


@check(
    group="symmetry",
    statement="Permuting the rows (pairs) of the batch leaves L unchanged and permutes its gradient.",
    over=("typical", "full", "square", "absent_rows"),
    why="A loss that knows the order of the batch mixes samples, usually along a wrong axis.",
    cause="broadcasting [B] against [B, S] along the wrong axis (silent when B = S), or flattening that mixes rows.",
    fix="Write the axis: weights[:, None] for rows, and sum over dim=1 before the mean over rows.",
    applies=unless("stochastic"),
    seen_in="qubvel-org/segmentation_models.pytorch@a542c55",
    own_batch=True,
)
def batch_permutation(trial: Trial) -> None:
    base = trial.finite_base
    case = trial.case
    size = group_size(case)
    groups = torch.arange(len(case.rows)).reshape(-1, size)
    if len(groups) < 2 or not any(slot.row_axis is not None for slot in case.slots()):
        raise NotExercised("a single row has only one order")
    # Some that mine pairs take the first they find.
    mines = {"embeddings", "labels"} <= {slot.role for slot in case.slots()}
    # And of a single input that nothing else speaks of it is not known that its first axis is one of rows.
    guessed = trial.foreign and not trial.facts.any_promised and (mines or len(case.slots()) == 1)
    for order in _orders(groups):
        got = trial.evaluate(select_rows(case, order))
        change = f"rows in the order {order.tolist()}"
        trial.require_value(got, base, change, guessed=guessed)
        moved = {
            slot.key: base.gradients[slot.key].index_select(slot.row_axis, order)
            for slot in case.slots()
            if slot.key in base.gradients and slot.row_axis is not None
        }
        trial.require_gradients(got.gradients, moved, change, guessed=guessed)


def _orders(groups: Tensor) -> Iterator[Tensor]:
    """Yield the last group first, then, of three or more, the last and the first exchanged.

    Rows dealt into groups along a wrong axis keep their company when all of them move on by one.
    """
    yield torch.roll(groups, 1, 0).flatten()
    if len(groups) > 2:
        yield torch.cat((groups[-1:], groups[1:-1], groups[:1])).flatten()


@check(
    group="symmetry",
    statement="The gradient of one row does not change with the content of another.",
    over=("typical", "full"),
    why="A term that looks at other rows changes with the microbatch it lands in.",
    cause="statistics over the batch (a mean, a maximum, a standard deviation, a sort) inside the loss.",
    fix="Compute such statistics before the loss, over the whole batch, or declare Contract(coupled=True).",
    seen_in="huggingface/trl@35702ce37",
    applies=unless("coupled"),
    own_batch=True,
)
def row_independence(trial: Trial) -> None:
    base = trial.finite_base
    size = group_size(trial.case)
    if len(trial.case.rows) < 2 * size or any(slot.role == "pairs" for slot in trial.case.slots()):
        raise NotExercised("there is no second row to change")
    changed = {}
    for slot in trial.case.slots():
        # Weights count rows, as masks do: what all rows are divided by may well be their sum.
        if slot.row_axis == 0 and slot.movable and slot.role != "weights":
            changed[slot.key] = trial.case.tensor(slot).clone()
            changed[slot.key][-size:] = other_content(slot, changed[slot.key][-size:])
    got = trial.evaluate(trial.case.with_tensors(changed))
    for slot in trial.case.slots():
        if slot.key not in base.gradients or slot.row_axis != 0:
            continue
        ours, theirs = got.gradients[slot.key][:-size], base.gradients[slot.key][:-size]
        both_undefined = ours.isnan() & theirs.isnan()  # which is for the finite checks to say
        worst = torch.where(both_undefined, 0.0, (ours - theirs).abs()).amax()
        tolerance = trial.gradient_tolerance(slot.key, base.gradients[slot.key])
        if not bool(worst <= tolerance.bound):
            raise Broken(
                f"the gradient of the other rows moves by {number(worst)}",
                "no change",
                changed=f"everything in the last row{'' if size == 1 else ' pair' if size == 2 else f' group of {size}'}",
                tolerance=tolerance,
                declare="Contract(coupled=True)",
                guessed=not trial.facts.promised("coupled"),
            )
