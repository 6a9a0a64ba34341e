"""Which token an entry speaks of, found by asking which columns of a [B, S] input the loss reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.cases.build import build
from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Schema, Slot
from loss_conformance.subject.probe import PLAN
from loss_conformance.subject.result import result_of

__all__ = ["aligned_as_read"]

_FULL: Final = replace(PLAN, situation="full", mask="full")


def aligned_as_read(
    call: Callable[[Any, Case], Any], loss: Any, schema: Schema, unsaid: Callable[[Slot], bool]
) -> Schema:
    """Return the schema with every [B, S] input whose alignment is ``unsaid`` aligned as the loss reads it.

    An input aligned with ``input_ids`` is sliced ``[:, 1:]``: its first column is never read. One that was rolled left
    by one is sliced ``[:, :-1]``: its last column is never read, and entry t speaks of token t+1.
    """
    case = build(schema, _FULL).cast(torch.float32)

    def value(changed: Case) -> Tensor:
        result, _ = result_of(call(loss, changed))
        return result.detach().clone() if isinstance(result, Tensor) else torch.tensor(0.0)

    before = value(case)

    def reads(slot: Slot, column: int) -> bool:
        tensor = case.tensor(slot).clone()
        tensor[:, column] -= 1.0 + torch.arange(len(tensor)) % 2
        return not torch.equal(value(case.with_tensors({slot.key: tensor})), before)

    def rolled(slot: Slot) -> bool:
        along_tokens = unsaid(slot) and slot.shape == ("B", "S") and slot.role != "mask" and not slot.integer
        return along_tokens and slot.shift == 0 and reads(slot, 0) and not reads(slot, -1)

    return replace(schema, slots=tuple(replace(slot, shift=1) if rolled(slot) else slot for slot in schema.slots))
