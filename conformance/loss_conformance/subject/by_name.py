"""Any module or function, called by its parameter names: what each name means decides what it is fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from inspect import Parameter
from typing import Any, ClassVar, Final

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Schema
from loss_conformance.evaluation import LossRaised
from loss_conformance.subject.candidates import candidates, ignored_label, is_size, size_of
from loss_conformance.subject.declared_slots import (
    with_class_axis,
    with_row_axis,
    with_token_axis,
)
from loss_conformance.subject.held import Asked, Holders, ways_to_hold
from loss_conformance.subject.own_groups import named_groups
from loss_conformance.subject.parameter_names import loose_meaning, meaning_of
from loss_conformance.subject.probabilities import takes_probabilities
from loss_conformance.subject.probe import PLAN, Fit, Probe, probe, spare
from loss_conformance.subject.protocol import CallingProtocol, CannotFeed
from loss_conformance.subject.shifting import shifted
from loss_conformance.subject.signatures import (
    parameters_of,
)
from loss_conformance.subject.unfed import (
    none_fits,
    unknown_field_of,
)
from loss_reference.contract import Contract

__all__ = ["ByNameProtocol"]

_SOME_IGNORED: Final = replace(PLAN, samples="some")
_OTHER_SIZES: Final = replace(PLAN, rows=3, tokens=4, vocabulary=7, top_k=2, features=5, seed=2)


class ByNameProtocol(CallingProtocol):
    """``loss(input, target)`` and the like: a ``torch.nn.Module``, or any callable."""

    name: ClassVar[str] = "parameter names of the call"
    foreign: ClassVar[bool] = True

    def __init__(self) -> None:
        self._holders = Holders()

    def routes(self, loss: Any, contract: Contract) -> tuple[Schema, ...]:
        fields = with_token_axis(contract.fields, ignored_label(loss) is not None)
        contract = replace(contract, fields=with_class_axis(with_row_axis(fields)))
        # Rows in groups where it takes no others.
        groups = (contract.group_size,) if contract.group_size else (1, *named_groups(loss))
        refused: CannotFeed | None = None
        for self._holders, group in ((held, size) for held in ways_to_hold(loss, contract.fields) for size in groups):
            try:
                self._find_fields(loss, contract)
                return (self._fitting(loss, contract, group),)
            except CannotFeed as error:
                refused = refused or error
        assert refused is not None
        raise refused

    def _fitting(self, loss: Any, contract: Contract, group: int) -> Schema:
        """Return the first inputs that suit the loss, of rows in groups of this size.

        Raises:
            CannotFeed: there are none.
        """
        copy = spare(loss)
        parameters = self._holders.parameters(loss)
        best: tuple[Schema, Probe] | None = None
        tried: list[tuple[str, Probe]] = []
        for name, schema in candidates(loss, parameters, contract):
            schema = replace(schema, group=group, ordered=False) if group > 1 else schema
            schema = _without_refused_label(self.call, copy, schema)
            outcome = probe(self.call, copy, schema)
            # Once more in other sizes: the first may have fitted by accident, such as S classes where V are meant.
            again = outcome if outcome.fit is Fit.RAISED else probe(self.call, spare(loss), schema, _OTHER_SIZES)
            if again.fit is Fit.RAISED and not _declined(again):
                outcome = again
            if outcome.fit is Fit.GOOD and takes_probabilities(self.call, loss, schema):
                outcome = replace(outcome, fit=Fit.BROKEN)
            if outcome.fit is Fit.BROKEN and _knows_its_ignored_label(self.call, copy, schema):
                # Not finite for that label alone, which it does not refuse: a mistake for the laws to see.
                outcome = again = replace(outcome, fit=Fit.GOOD)
            tried.append((name, outcome))
            if outcome.fit is Fit.GOOD and again.fit is Fit.GOOD:
                best = schema, outcome
                break
            if best is None or outcome.fit > best[1].fit:
                best = schema, outcome
        if best is None or best[1].fit is Fit.RAISED:
            raise none_fits([p.name for p in parameters if p.default is Parameter.empty], tried)
        schema, outcome = best
        # A field that speaks of a later token leaves open how much later.
        known = [name for name, field in contract.fields.items() if field.speaks_of in ("itself", "next")]
        return shifted(schema, outcome, known)

    def hand_over(self, loss: Any, case: Case) -> Any:
        given: dict[str, Any] = {slot.name: case.tensor(slot) for slot in case.slots()}
        parameters = parameters_of(loss)
        given = self._holders.filled(given | {p.name: size_of(p.name, case) for p in parameters if is_size(p)})
        in_order = [p.name for p in parameters if p.kind is Parameter.POSITIONAL_ONLY and p.name in given]
        positional = [given.pop(name) for name in in_order]
        return loss(*positional, **given)

    def _find_fields(self, loss: Any, contract: Contract) -> None:
        """Learn which tensors the arguments that hold some must hold, from what the loss asks them for.

        Raises:
            CannotFeed: it asks for one whose name says nothing.
        """
        while self._holders.fields and (asked := self._asked_in_vain(spare(loss), contract)) is not None:
            if not asked.optional and loose_meaning(asked.field) is None and meaning_of(asked.field) is None:
                raise unknown_field_of(asked.argument, asked.field)
            self._holders = self._holders.with_field(asked)

    def _asked_in_vain(self, loss: Any, contract: Contract) -> Asked | None:
        """Return a field that the loss cannot do without and was not given; else one it can use, when its name is known."""
        parameters = self._holders.parameters(loss)
        known: list[Asked] = []
        for _, schema in candidates(loss, parameters, contract) if parameters else [("", Schema(()))]:
            outcome = probe(self.call, loss, schema)
            asked = self._holders.asked()
            if isinstance(outcome.error, (KeyError, AttributeError)):
                raised = [each for each in asked if each.field in str(outcome.error)]
                if raised:
                    return replace(raised[-1], optional=False)
            known = [each for each in asked if meaning_of(each.field) is not None]
            if outcome.fit is Fit.GOOD:
                break
        return replace(known[0], optional=True) if known else None


def _without_refused_label(call: Callable[[Any, Case], Any], loss: Any, schema: Schema) -> Schema:
    """Return the schema without the ignored label where the loss refuses it, or does not read its labels at all."""
    if not any(slot.ignore is not None for slot in schema.slots):
        return schema
    plain = _every_label_counts(schema)
    ignoring = probe(call, loss, schema, _SOME_IGNORED)
    if ignoring.value is not None:
        every = probe(call, loss, plain, _SOME_IGNORED)
        return plain if every.value is not None and bool(every.value == ignoring.value) else schema
    return plain if ignoring.fit is Fit.RAISED and probe(call, loss, plain).fit is Fit.GOOD else schema


def _knows_its_ignored_label(call: Callable[[Any, Case], Any], loss: Any, schema: Schema) -> bool:
    """Return whether a loss takes tokens with an ignored label among them, is not finite then, and is without."""
    ignoring = any(slot.ignore is not None and slot.token_axis is not None for slot in schema.slots)
    return ignoring and probe(call, loss, _every_label_counts(schema)).fit is Fit.GOOD


def _every_label_counts(schema: Schema) -> Schema:
    return replace(schema, slots=tuple(replace(slot, ignore=None) for slot in schema.slots))


def _declined(outcome: Probe) -> bool:
    """Return whether the loss's own code refused the content of a probe, which says nothing about its sizes."""
    if outcome.error is None or "values to unpack" in str(outcome.error):
        return False  # an axis taken apart into as many names as it must have entries
    return LossRaised(outcome.error).refusal
