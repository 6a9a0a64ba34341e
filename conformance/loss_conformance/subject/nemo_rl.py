"""NeMo RL's protocol: ``loss(data, global_valid_seqs, global_valid_toks, **prepared)`` gives (loss, metrics)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from inspect import Parameter
from typing import Any, ClassVar, Final

import torch

from loss_conformance.cases.build import build
from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import ARGUMENT, BATCH, Schema, Slot
from loss_conformance.subject.alignment import aligned_as_read
from loss_conformance.subject.declared_slots import declared_slot
from loss_conformance.subject.interface import unknown_field, vocabulary_slots
from loss_conformance.subject.prepared_inputs import COUNTS, forms_of, input_type
from loss_conformance.subject.probe import PLAN, Fit, probe, spare
from loss_conformance.subject.protocol import CallingProtocol, CannotFeed
from loss_conformance.subject.signatures import VARIADIC, parameters_of
from loss_conformance.subject.user_frames import user_traceback
from loss_conformance.subject.watching import UnknownFieldRead, WatchedMapping
from loss_reference.contract import Contract
from loss_reference.interface import ModelOutputs

__all__ = ["NeMoRLProtocol"]

_FIXED: Final = ("data", "global_valid_seqs", "global_valid_toks")


class NeMoRLProtocol(CallingProtocol):
    """A loss of NeMo RL: the batch and the counts of the global batch, and what its ``input_type`` has prepared."""

    name: ClassVar[str] = "NeMo RL loss protocol"
    foreign: ClassVar[bool] = True

    def routes(self, loss: Any, contract: Contract) -> tuple[Schema, ...]:
        copy = spare(loss)
        errors: list[tuple[str, Exception]] = []
        broken: Schema | None = None
        for arguments in _prepared(loss, contract):
            try:
                schema = Schema((*self._data_read(copy, arguments, contract), *COUNTS, *arguments))
            except UnknownFieldRead as unknown:
                raise CannotFeed(unknown_field(unknown), user_traceback(unknown)) from None
            except Exception as error:
                errors.append((_described(arguments), error))
                continue
            if probe(self.call, copy, schema).fit is Fit.GOOD:
                return (aligned_as_read(self.call, copy, schema, lambda slot: slot.place == BATCH),)
            broken = broken or schema
        if broken is not None:
            return (broken,)
        raise _none_fits(loss, errors)

    def hand_over(self, loss: Any, case: Case) -> Any:
        data = {slot.name: case.as_called(slot) for slot in case.slots() if slot.place == BATCH}
        given = {slot.name: case.as_called(slot) for slot in case.slots() if slot.place == ARGUMENT}
        return loss(data=ModelOutputs(data), **given)

    def _data_read(self, loss: Any, arguments: tuple[Slot, ...], contract: Contract) -> tuple[Slot, ...]:
        """Return a slot for every field of the batch the loss reads when it is given ``arguments``."""
        offered = tuple(slot for slot in vocabulary_slots(contract) if slot.place == BATCH)
        case = build(Schema((*offered, *COUNTS, *arguments)), PLAN).cast(torch.float32)
        data = WatchedMapping(BATCH, {slot.name: case.tensor(slot) for slot in offered})
        given = {s.name: case.as_in_training(s) for s in (*COUNTS, *arguments)}
        loss(data=data, **given)
        reads = data.reads
        return tuple(replace(slot, optional=reads[slot.name]) for slot in offered if slot.name in reads)


def _prepared(loss: Any, contract: Contract) -> Iterator[tuple[Slot, ...]]:
    """Yield every set of prepared inputs worth trying.

    Raises:
        CannotFeed: a required argument that is not known.
    """
    forms: list[tuple[Slot, ...]] = []
    for parameter in _prepared_parameters(loss):
        declared = contract.fields.get(parameter.name)
        known = (declared_slot(parameter.name, declared),) if declared else forms_of(parameter.name)
        if known:
            forms.append(known)
        elif parameter.default is Parameter.empty:
            raise CannotFeed(
                f"it needs the prepared input {parameter.name!r}, which is not known; declare it on the class:\n"
                f'    contract = Contract(fields={{"{parameter.name}": Field(role="logprobs", shape="B S-1")}})'
            )
    yield from itertools.product(*forms)


def _prepared_parameters(loss: Any) -> list[Parameter]:
    parameters = [p for p in parameters_of(loss) if p.name not in _FIXED]
    named = [p for p in parameters if p.kind not in VARIADIC and p.default is Parameter.empty]
    if named or not any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
        return named
    return [Parameter(name, Parameter.KEYWORD_ONLY) for name in input_type(loss)]


def _described(arguments: tuple[Slot, ...]) -> str:
    return ", ".join(f"{slot.name} [{', '.join(slot.shape)}]" for slot in arguments) or "no prepared inputs"


def _none_fits(loss: Any, errors: list[tuple[str, Exception]]) -> CannotFeed:
    lines = ["it accepts none of the inputs that NeMo RL prepares"]
    lines += [f"  {inputs}: {type(error).__name__}: {' '.join(str(error).split())[:160]}" for inputs, error in errors]
    if not errors:
        lines.append(f"  its input_type is {getattr(loss, 'input_type', None)!r}")
    lines.append("name the inputs in its signature, or declare them in a contract with fields={...}")
    return CannotFeed("\n".join(lines), user_traceback(errors[0][1]) if errors else "")
