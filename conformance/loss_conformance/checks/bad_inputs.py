"""Bad inputs: what cannot be meant is refused, with a word about which input it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import BATCH, Slot
from loss_conformance.checks.registry import Cost, Severity, check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial
from loss_reference.vocabulary import BATCH_FIELDS, MODEL_OUTPUT_FIELDS

__all__ = ["missing_input", "unknown_token", "wrong_shape"]

OFF_VOCABULARY: Final = 1000


def _own_interface(trial: Trial) -> str | None:
    return f"it is called through the {trial.bench.subject.protocol.name}" if trial.foreign else None


@check(
    group="interface",
    statement="Without one of its inputs a loss gives a number, or an error that names the input.",
    severity=Severity.ADVICE,
    why="'NoneType' object is not subscriptable, ten frames down, does not say which field the collator forgot.",
    cause="an input read with .get and then used as if it were there.",
    fix="Read what is required with batch['name']; raise KeyError('name') where one of two inputs is needed.",
    applies=_own_interface,
)
def missing_input(trial: Trial) -> None:
    for slot in trial.case.slots():
        try:
            trial.evaluate(trial.case.without(slot.key))
        except Malformed:
            continue
        except LossRaised as raised:
            # One of two inputs is needed: it may name the other.
            if not any(name in str(raised) for name in (slot.name, *BATCH_FIELDS, *MODEL_OUTPUT_FIELDS)):
                raise Broken(
                    f"{raised.where} raised {raised}",
                    f"a loss, or an error that names {slot.name!r}",
                    changed=f"{slot.key} left out",
                    traceback=raised.traceback,
                ) from None


@check(
    group="interface",
    statement="A constant of another shape is refused, not broadcast: one column for all tokens, one row for all rows.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    cost=Cost.STANDARD,
    why="A mask of one column or rewards of [B, 1] broadcast against [B, S] without a word, and every term is another one.",
    cause="no test of the shape: torch broadcasts axes of size 1.",
    fix="if advantages.shape != token_mask.shape: raise ValueError(f'advantages has shape ...').",
    seen_in="benedekrozemberczki/pytorch_geometric_temporal#233",
    applies=_own_interface,
)
def wrong_shape(trial: Trial) -> None:
    base = trial.finite_base
    tried = False
    for slot in trial.case.slots():
        for wrong in _wrong(trial.case, slot):
            tried = True
            try:
                got = trial.evaluate(trial.case.with_tensors({slot.key: wrong})).value
            except (LossRaised, Malformed):
                continue
            if bool(got == base.value):
                continue  # its very content is the same, or it is reshaped
            raise Broken(
                f"L = {number(got)}, {number(base.value)} before",
                f"an error that names {slot.name!r}",
                changed=f"{slot.key} of shape {list(wrong.shape)} for {list(trial.case.tensor(slot).shape)}",
            )
    if not tried:
        raise NotExercised("it reads no constant along rows")


@check(
    group="interface",
    statement="A trained token whose id is outside the vocabulary raises an error.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="An id of another tokenizer that is clamped, wrapped or multiplied away trains on another token without a word.",
    cause="ids.clamp(max=V - 1), ids % V, or a comparison with arange(V) in place of gather.",
    fix="Let gather raise, or test: ids.max() >= V → ValueError that names input_ids.",
    seen_in="pytorch/pytorch#108148",
)
def unknown_token(trial: Trial) -> None:
    logits, ids = trial.case.schema.find("model_outputs.logits"), trial.case.schema.find("batch.input_ids")
    if logits is None or ids is None or not {logits.key, ids.key} <= trial.case.tensors.keys():
        raise NotExercised("it looks up no token ids among logits")
    places = trial.case.active(ids).nonzero()
    if not len(places):
        raise NotExercised("no token is trained on")
    place = tuple(int(i) for i in places[-1])
    vocabulary = trial.case.tensor(logits).shape[-1]
    another = trial.case.tensor(ids).clone()
    another[place] = (another[place] + 1) % vocabulary
    if bool(trial.evaluate(trial.case.with_tensors({ids.key: another})).value == trial.base.value):
        raise NotExercised("its value does not depend on which token it is")
    wrong = trial.case.tensor(ids).clone()
    wrong[place] = vocabulary + OFF_VOCABULARY
    try:
        got = trial.evaluate(trial.case.with_tensors({ids.key: wrong}))
    except (LossRaised, Malformed):
        return
    raise Broken(
        f"L = {number(got.value)}",
        "an error",
        changed=f"{ids.key}[{','.join(map(str, place))}] = {int(wrong[place])}, of {vocabulary} tokens",
    )


def _wrong(case: Case, slot: Slot) -> Iterator[Tensor]:
    """Yield the content of a constant in shapes that broadcast against the right one."""
    tensor = case.tensor(slot)
    if slot.place != BATCH or slot.row_axis != 0 or slot.role == "pairs":
        return
    if slot.token_axis == 1 and tensor.dim() == 2 and tensor.shape[1] > 2:
        yield tensor[:, -1:]
    if tensor.shape[0] > 1 and slot.token_axis is not None:
        yield tensor[:1]
    if slot.shape == ("B",) and len(tensor) > 1 and not bool((tensor == tensor[0]).all()):
        yield torch.unsqueeze(tensor, 1)
