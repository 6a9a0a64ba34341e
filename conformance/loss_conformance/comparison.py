"""Two losses on the same numbers, each called its own way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from loss_conformance.caller import Caller
from loss_conformance.cases.build import build
from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import ARGUMENT, STRUCTURAL_ROLES, Schema, Slot
from loss_conformance.evaluation import Evaluation, LossRaised
from loss_conformance.subject.interface import InterfaceProtocol
from loss_conformance.subject.laid_out import LaidOutProtocol, NoCounterpart
from loss_conformance.trial import NotExercised

if TYPE_CHECKING:
    from loss_conformance.bench import Bench
    from loss_conformance.trial import Trial

__all__ = ["Comparison"]


@dataclass(frozen=True)
class Comparison:
    """A loss and the one it must equal.

    Attributes:
        other: the baseline on its own bench.
    """

    other: Bench

    @property
    def name(self) -> str:
        """The baseline as the user wrote it."""
        return self.other.subject.target

    def both(self, trial: Trial, loss: Any = None) -> tuple[Evaluation, Evaluation]:
        """Return both evaluations on one common case; the baseline's gradients carry the names of this loss's inputs.

        Args:
            trial: the case to draw, and the loss under test.
            loss: another loss of the same kind to use in its place.

        Raises:
            NotExercised: the baseline needs an input this loss gives no counterpart of, or is not finite here.
        """
        common = self.common(trial)
        return self.ours(trial, common, loss), self.theirs(trial, common)

    def common(self, trial: Trial) -> Case:
        """Return the case with everything both losses read."""
        if self._asked_with_arguments(trial):
            return trial.case
        assert trial.case.plan is not None
        own = trial.case.schema
        return build(_merged(own, self._slots_shared_with(own)), trial.case.plan).cast(trial.bench.dtype)

    def ours(self, trial: Trial, common: Case, loss: Any = None) -> Evaluation:
        """Return what the loss under test, or another of its kind, gives on a common case."""
        return trial.evaluate(_restricted(common, trial.case.schema), loss=loss)

    def theirs(self, trial: Trial, common: Case, convention: Any = None) -> Evaluation:
        """Return what the baseline, or the same one in another convention, gives on a common case.

        Raises:
            NotExercised: it needs an input this loss gives no counterpart of, or is not finite here.
        """
        if self._asked_with_arguments(trial):
            return self._laid_out(trial, common, convention)
        own = trial.case.schema
        slots = self._slots_shared_with(own)
        # In another convention it may read what it does not as it stands.
        given = _restricted(common, slots) if convention is None else common
        wanted = self.other.caller.evaluate(given, loss=convention)
        _require_finite(wanted)
        names = {slot.key: mine.key for slot in slots.slots for mine in own.slots if mine.kind == slot.kind}
        renamed = {names[key]: gradient for key, gradient in wanted.gradients.items() if key in names}
        same_shape = {k: g for k, g in renamed.items() if k in common.tensors and g.shape == common.tensors[k].shape}
        return replace(wanted, gradients=same_shape)

    def lacks(self, trial: Trial) -> list[str]:
        """Return the numbers the baseline cannot do without and this loss does not read."""
        if self._asked_with_arguments(trial):
            return []
        own = trial.case.schema
        return [
            slot.key
            for slot in self._slots_shared_with(own).slots
            if slot.kind not in own.kinds() and slot.role not in STRUCTURAL_ROLES
        ]

    def _asked_with_arguments(self, trial: Trial) -> bool:
        arguments = all(slot.place == ARGUMENT for slot in trial.case.schema.slots)
        return arguments and type(self.other.subject.protocol) is InterfaceProtocol

    def _laid_out(self, trial: Trial, case: Case, convention: Any) -> Evaluation:
        """Return what the baseline gives when the arguments of this loss are laid out as a batch."""
        contract = self.other.facts.contract
        groups = contract.group_size or (2 if contract.level == "pair" else 1)
        protocol = LaidOutProtocol(groups, summed=trial.facts.contract.normalizer == "sum")
        caller = Caller(replace(self.other.subject, protocol=protocol), contract, self.other.seed)
        try:
            wanted = caller.evaluate(case, loss=convention)
        except LossRaised as raised:
            said = raised.error
            if isinstance(said, NoCounterpart):
                raise NotExercised(f"{self.name} reads nothing that {said} would be") from None
            if isinstance(said, KeyError):
                raise NotExercised(
                    f"this loss gives no counterpart of what {self.name} reads: {said.args[0]}"
                ) from None
            if isinstance(said, ValueError):
                raise NotExercised(f"laid out as a batch, {self.name} refuses it: {said}") from None
            raise
        _require_finite(wanted)
        return replace(wanted, gradients={k: g for k, g in wanted.gradients.items() if k not in _normalised(case)})

    def _slots_shared_with(self, own: Schema) -> Schema:
        """Return the baseline's route that shares most inputs with this loss, less the optional ones this loss lacks."""
        kinds = own.kinds()

        def kept(schema: Schema) -> tuple[Slot, ...]:
            return tuple(slot for slot in schema.slots if not slot.optional or slot.kind in kinds)

        best = max(self.other.schemas, key=lambda schema: sum(slot.kind in kinds for slot in schema.slots))
        return replace(best, slots=kept(best))


def _require_finite(wanted: Evaluation) -> None:
    if not bool(torch.isfinite(wanted.value)):
        raise NotExercised("the baseline is not finite on this case")


def _normalised(case: Case) -> set[str]:
    """Return the inputs that are distributions already: the baseline normalises them again, and its gradient with them."""
    return {slot.key for slot in case.slots() if "V" in slot.shape and slot.role in ("logprobs", "probabilities")}


def _merged(own: Schema, theirs: Schema) -> Schema:
    keys = {slot.key for slot in own.slots}
    extra = tuple(slot for slot in theirs.slots if slot.key not in keys)
    return replace(own if own.group >= theirs.group else theirs, slots=own.slots + extra)


def _restricted(case: Case, schema: Schema) -> Case:
    keys = {slot.key for slot in schema.slots}
    tensors = {key: tensor for key, tensor in case.tensors.items() if key in keys}
    return replace(case, schema=replace(schema, group=case.schema.group, ordered=case.schema.ordered), tensors=tensors)
