"""The interface of this project: ``compute_loss(batch, model_outputs)``, its inputs found by watching what it reads."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, ClassVar, Final

import torch

from loss_conformance.cases.build import build
from loss_conformance.cases.case import Case
from loss_conformance.cases.plan import Plan
from loss_conformance.cases.slot import BATCH, MODEL_OUTPUTS, Schema, Slot, vocabulary_slot
from loss_conformance.guard import out_of_memory
from loss_conformance.subject.alignment import aligned_as_read
from loss_conformance.subject.declared_slots import by_another_name, with_class_axis
from loss_conformance.subject.probe import Fit, probe, spare
from loss_conformance.subject.protocol import CallingProtocol, CannotFeed
from loss_conformance.subject.shifting import shifted
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
OTHER_SIZES: Final = (replace(PROBE, rows=8, tokens=13), replace(PROBE, rows=16, tokens=9))
"""Sizes in which more is divisible: what refuses the first and takes one of these has a mistake for the laws to see."""


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
        return tuple(self._aligned(loss, self._own_aligned(loss, Schema(slots), contract)) for slots in found)

    def _own_aligned(self, loss: Any, schema: Schema, contract: Contract) -> Schema:
        """Return the schema with fields of the loss's own, of which it is not said what they speak of, aligned as read."""
        said = {name for name, field in contract.fields.items() if field.speaks_of is not None}
        known = {*BATCH_FIELDS, *MODEL_OUTPUT_FIELDS, *said}
        own = [slot for slot in schema.slots if slot.name not in known]
        if not own or probe(self.call, spare(loss), schema).fit is not Fit.GOOD:
            return schema
        return aligned_as_read(self.call, spare(loss), schema, lambda slot: slot.name not in known)

    def _aligned(self, loss: Any, schema: Schema) -> Schema:
        """Return the schema with heads that speak of a later token aligned as the loss aligns them."""
        if not any(slot.later for slot in schema.slots):
            return schema
        known = [slot.name for slot in schema.slots if not slot.later]
        return shifted(schema, probe(self.call, spare(loss), schema), known)

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
        """Return the slots the loss reads, of those offered.

        Raises:
            CannotFeed: it reads an unknown field, or raises in all sizes.
        """
        refused: CannotFeed | None = None
        for plan in (PROBE, *OTHER_SIZES):
            watched = _Watched(offered, plan)
            try:
                with functions_kept():
                    self.compute(loss, watched.batch, watched.outputs)
                return watched.read()
            except UnknownFieldRead as unknown:
                return self._watch_by_another_name(loss, offered, unknown)
            except Exception as error:
                if out_of_memory(error):
                    raise MemoryError from error
                refused = refused or _raised(error, watched)
        assert refused is not None
        raise refused

    def _watch_by_another_name(self, loss: Any, offered: tuple[Slot, ...], asked: UnknownFieldRead) -> tuple[Slot, ...]:
        """Return the slots the loss reads when the field it asks for is one of the vocabulary by another name.

        Raises:
            CannotFeed: it is none, or is refused as that one.
        """
        heard = by_another_name(asked.place, asked.field)
        if heard is not None:
            with contextlib.suppress(CannotFeed):
                return self._watch(loss, (*offered, heard))
        raise CannotFeed(unknown_field(asked), user_traceback(asked)) from None


class MappingsProtocol(InterfaceProtocol):
    """A function or module called as ``loss(batch, model_outputs)``: the interface in all but name."""

    name: ClassVar[str] = "function of batch and model_outputs"

    def compute(self, loss: Any, batch: Any, outputs: Any) -> Any:
        return loss(batch, outputs)


def vocabulary_slots(contract: Contract) -> tuple[Slot, ...]:
    """Return a slot for every field of the vocabulary and every field the contract declares."""
    slots, fields = [], with_class_axis(contract.fields)
    for place, table in ((BATCH, BATCH_FIELDS), (MODEL_OUTPUTS, MODEL_OUTPUT_FIELDS)):
        slots += [vocabulary_slot(place, name, declared=fields.get(name)) for name in table]
    known = {slot.name for slot in slots if slot is not None}
    for name, declared in fields.items():
        if name not in known:
            # Whether it is trained may be left to where it is read.
            places = {True: (MODEL_OUTPUTS,), False: (BATCH,), None: (BATCH, MODEL_OUTPUTS)}[declared.trainable]
            slots += [vocabulary_slot(place, name, declared=declared) for place in places]
    return tuple(slot for slot in slots if slot is not None)


class _Watched:
    """The two mappings of one call, filled, and what was read of them."""

    def __init__(self, offered: tuple[Slot, ...], plan: Plan) -> None:
        case = build(Schema(offered), plan).cast(torch.float32)
        self._offered = offered
        filled = [slot for slot in offered if slot.key in case.tensors]
        self.batch = WatchedMapping(BATCH, {s.name: case.tensor(s) for s in filled if s.place == BATCH})
        self.outputs = WatchedMapping(
            MODEL_OUTPUTS, {s.name: case.as_in_training(s) for s in filled if s.place != BATCH}
        )

    def read(self) -> tuple[Slot, ...]:
        reads = {(BATCH, name): optional for name, optional in self.batch.reads.items()}
        reads |= {(MODEL_OUTPUTS, name): optional for name, optional in self.outputs.reads.items()}
        return tuple(
            replace(slot, optional=reads[slot.place, slot.name])
            for slot in self._offered
            if (slot.place, slot.name) in reads
        )


def _raised(error: Exception, watched: _Watched) -> CannotFeed:
    read = ", ".join([*watched.batch.reads, *watched.outputs.reads]) or "nothing"
    return CannotFeed(
        f"it raised {type(error).__name__}: {error}\n"
        f"on its first call, with batch and model_outputs of the vocabulary (read so far: {read})",
        user_traceback(error),
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
