"""The interface protocol on a batch that holds more than tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import BATCH, MODEL_OUTPUTS
from loss_conformance.subject.interface import InterfaceProtocol
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.subject.user_frames import user_traceback
from loss_conformance.subject.watching import UnknownFieldRead, WatchedMapping
from loss_reference.interface import ModelOutputs
from loss_reference.names import nearest_name

__all__ = ["HandingThrough"]


class HandingThrough(InterfaceProtocol):
    """Calls ``compute_loss`` with the tensors of the case and every other entry as the user gave it."""

    name: ClassVar[str] = "LossFunction interface, on your own batch"

    def __init__(self, batch: Mapping[str, Any], model_outputs: Mapping[str, Any]) -> None:
        self._batch = {name: x for name, x in batch.items() if not isinstance(x, Tensor)}
        self._outputs = {name: x for name, x in model_outputs.items() if not isinstance(x, Tensor)}

    def asked(self, loss: Any, batch: Mapping[str, Any], model_outputs: Mapping[str, Any]) -> set[str]:
        """Return the name of every field the loss asks for, given or not.

        Raises:
            CannotFeed: it cannot be called with this batch.
        """
        watched = WatchedMapping(BATCH, dict(batch)), WatchedMapping(MODEL_OUTPUTS, dict(model_outputs))
        try:
            loss.compute_loss(*watched)
        except UnknownFieldRead as unknown:
            there = batch if unknown.place == BATCH else model_outputs
            raise CannotFeed(
                f"it reads {unknown.place}[{unknown.field!r}], which is not there{nearest_name(unknown.field, there)}",
                user_traceback(unknown),
            ) from None
        except Exception as error:
            raise CannotFeed(f"it raised {type(error).__name__}: {error}", user_traceback(error)) from None
        return {name for mapping in watched for name in mapping.asked}

    def hand_over(self, loss: Any, case: Case) -> Any:
        batch = {slot.name: case.tensor(slot) for slot in case.slots() if slot.place == BATCH}
        outputs = {slot.name: case.tensor(slot) for slot in case.slots() if slot.place == MODEL_OUTPUTS}
        return loss.compute_loss({**self._batch, **batch}, ModelOutputs({**self._outputs, **outputs}))
