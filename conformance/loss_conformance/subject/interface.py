"""The interface of this project: ``compute_loss(batch, model_outputs)``, its inputs found by watching what it reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch

from loss_conformance.cases.build import build
from loss_conformance.cases.case import Case
from loss_conformance.cases.plan import Plan
from loss_conformance.cases.slot import BATCH, MODEL_OUTPUTS, Schema, Slot, vocabulary_slot
from loss_conformance.guard import out_of_memory
from loss_conformance.subject.protocol import CallingProtocol, CannotFeed
from loss_conformance.subject.user_frames import user_traceback
from loss_conformance.subject.watching import UnknownFieldRead, WatchedMapping
from loss_conformance.torch_functions import functions_kept
from loss_reference.contract import Contract
from loss_reference.interface import ModelOutputs
from loss_reference.names import nearest_name
from loss_reference.vocabulary import BATCH_FIELDS, MODEL_OUTPUT_FIELDS

__all__ = ["InterfaceProtocol", "MappingsProtocol", "unknown_field", "vocabulary_slots"]

PROBE = Plan("typical", "typical", 12, 5, 6, 2, 3, 3, "ragged", "ones", True, 1)
"""The case a loss is watched on: rows that make whole pairs and groups, sizes that all differ, every field there is."""


class InterfaceProtocol(CallingProtocol):
    """``compute_loss(batch, model_outputs)`` on mappings of the batch vocabulary."""

    name: ClassVar[str] = "LossFunction interface"
    foreign: ClassVar[bool] = False

    def routes(self, loss: Any, contract: Contract) -> tuple[Schema, ...]:
        everything = vocabulary_slots(contract)
        first = self._watch(loss, everything)
        found = [first]
        for slot in first:
            if slot.optional and slot.role in ("logprobs", "logits") and len(found) < 3:
                try:
                    other = self._watch(loss, tuple(s for s in everything if s.key != slot.key))
                except CannotFeed:
                    continue
                if {s.key for s in other} - {s.key for s in first}:
                    found.append(other)
        return tuple(Schema(slots) for slots in found)

    def hand_over(self, loss: Any, case: Case) -> Any:
        batch = {slot.name: case.as_called(slot) for slot in case.slots() if slot.place == BATCH}
        outputs = ModelOutputs(
            {slot.name: case.as_called(slot) for slot in case.slots() if slot.place == MODEL_OUTPUTS}
        )
        return self.compute(loss, batch, outputs)

    def compute(self, loss: Any, batch: Any, outputs: Any) -> Any:
        """Call the loss with its two mappings."""
        return loss.compute_loss(batch, outputs)

    def _watch(self, loss: Any, offered: tuple[Slot, ...]) -> tuple[Slot, ...]:
        case = build(Schema(offered), PROBE).cast(torch.float32)
        tensors = {slot: case.tensor(slot) for slot in offered if slot.key in case.tensors}
        batch = WatchedMapping(BATCH, {slot.name: t for slot, t in tensors.items() if slot.place == BATCH})
        outputs = WatchedMapping(
            MODEL_OUTPUTS,
            {slot.name: case.as_in_training(slot) for slot in tensors if slot.place != BATCH},
        )
        try:
            with functions_kept():
                self.compute(loss, batch, outputs)
        except UnknownFieldRead as unknown:
            raise CannotFeed(unknown_field(unknown), user_traceback(unknown)) from None
        except Exception as error:
            if out_of_memory(error):
                raise MemoryError from error
            raise CannotFeed(
                f"it raised {type(error).__name__}: {error}\n"
                f"on its first call, with batch and model_outputs of the vocabulary (read so far: "
                f"{', '.join([*batch.reads, *outputs.reads]) or 'nothing'})",
                user_traceback(error),
            ) from None
        return _slots_read(offered, batch, outputs)


class MappingsProtocol(InterfaceProtocol):
    """A function or module called as ``loss(batch, model_outputs)``: the interface in all but name."""

    name: ClassVar[str] = "function of batch and model_outputs"

    def compute(self, loss: Any, batch: Any, outputs: Any) -> Any:
        return loss(batch, outputs)


def vocabulary_slots(contract: Contract) -> tuple[Slot, ...]:
    """Return a slot for every field of the vocabulary and every field the contract declares."""
    slots = []
    for place, table in ((BATCH, BATCH_FIELDS), (MODEL_OUTPUTS, MODEL_OUTPUT_FIELDS)):
        slots += [vocabulary_slot(place, name, declared=contract.fields.get(name)) for name in table]
    known = {slot.name for slot in slots if slot is not None}
    for name, declared in contract.fields.items():
        if name not in known:
            place = MODEL_OUTPUTS if declared.trainable else BATCH
            slots.append(vocabulary_slot(place, name, declared=declared))
    return tuple(slot for slot in slots if slot is not None)


def _slots_read(offered: tuple[Slot, ...], batch: WatchedMapping, outputs: WatchedMapping) -> tuple[Slot, ...]:
    reads = {(BATCH, name): optional for name, optional in batch.reads.items()}
    reads |= {(MODEL_OUTPUTS, name): optional for name, optional in outputs.reads.items()}
    return tuple(
        replace(slot, optional=reads[slot.place, slot.name]) for slot in offered if (slot.place, slot.name) in reads
    )


def unknown_field(unknown: UnknownFieldRead) -> str:
    """Say which field the loss reads that is not in the vocabulary, and how to declare it."""
    table = BATCH_FIELDS if unknown.place == BATCH else MODEL_OUTPUT_FIELDS
    hint = nearest_name(unknown.field, table)
    return (
        f"it reads {unknown.place}[{unknown.field!r}], which is not in the vocabulary{hint}\n"
        f"  known fields of {unknown.place}: {', '.join(table)}\n"
        f"  to declare one of your own, add to the class:\n"
        f'      contract = Contract(fields={{"{unknown.field}": Field(role="values", shape="B S"'
        f"{', trainable=True' if unknown.place == MODEL_OUTPUTS else ''})}})"
    )
