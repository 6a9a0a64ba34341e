"""Any module or function, called by its parameter names: what each name means decides what it is fed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from inspect import Parameter
from typing import Any, ClassVar, Final

from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Schema, Slot
from loss_conformance.evaluation import LossRaised
from loss_conformance.subject.declared_slots import (
    agrees_with,
    class_counts,
    declared_again,
    declared_slot,
    vocabulary_argument,
    with_class_axis,
    with_row_axis,
    with_token_axis,
)
from loss_conformance.subject.held import Asked, Holders, ways_to_hold
from loss_conformance.subject.own_sizes import sized
from loss_conformance.subject.parameter_names import SIZES, loose_meaning, meaning_of, meanings_of
from loss_conformance.subject.probabilities import takes_probabilities
from loss_conformance.subject.probe import PLAN, Fit, Probe, probe, spare
from loss_conformance.subject.protocol import CallingProtocol, CannotFeed
from loss_conformance.subject.readings import readings
from loss_conformance.subject.signatures import (
    VARIADIC,
    annotation_of,
    is_list_of_tensors,
    parameters_of,
    required_parameters,
)
from loss_conformance.subject.torch_losses import slots_of_torch_loss
from loss_conformance.subject.unfed import (
    list_of_tensors,
    no_parameters,
    none_fits,
    unknown_field_of,
    unknown_parameter,
)
from loss_conformance.subject.written_names import bare
from loss_reference.contract import Contract, Field

__all__ = ["ByNameProtocol"]

_SOME_IGNORED: Final = replace(PLAN, samples="some")
_FARTHEST: Final = 4
_OTHER_SIZES: Final = replace(PLAN, rows=3, tokens=4, vocabulary=7, top_k=2, features=5, seed=2)


class ByNameProtocol(CallingProtocol):
    """``loss(input, target)`` and the like: a ``torch.nn.Module``, or any callable."""

    name: ClassVar[str] = "parameter names of the call"
    foreign: ClassVar[bool] = True

    def __init__(self) -> None:
        self._holders = Holders()

    def routes(self, loss: Any, contract: Contract) -> tuple[Schema, ...]:
        contract = replace(contract, fields=with_class_axis(with_row_axis(with_token_axis(contract.fields))))
        refused: CannotFeed | None = None
        for self._holders in ways_to_hold(loss, contract.fields):
            try:
                self._find_fields(loss, contract)
                return (self._fitting(loss, contract),)
            except CannotFeed as error:
                refused = refused or error
        assert refused is not None
        raise refused

    def _fitting(self, loss: Any, contract: Contract) -> Schema:
        """Return the first inputs that suit the loss.

        Raises:
            CannotFeed: there are none.
        """
        copy = spare(loss)
        parameters = self._holders.parameters(loss)
        best: tuple[Schema, Probe] | None = None
        tried: list[tuple[str, Probe]] = []
        for name, schema in _sized_candidates(loss, parameters, contract):
            schema = _without_refused_label(self.call, copy, schema)
            outcome = probe(self.call, copy, schema)
            # Once more in other sizes: the first may have fitted by accident, such as S classes where V are meant.
            again = probe(self.call, spare(loss), schema, _OTHER_SIZES) if outcome.fit is Fit.GOOD else outcome
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
        return _shifted(schema, outcome)

    def hand_over(self, loss: Any, case: Case) -> Any:
        given: dict[str, Any] = {slot.name: case.tensor(slot) for slot in case.slots()}
        parameters = parameters_of(loss)
        given = self._holders.filled(given | {p.name: _size(p.name, case) for p in parameters if _is_size(p)})
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
        for _, schema in _sized_candidates(loss, parameters, contract) if parameters else [("", Schema(()))]:
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


def _sized_candidates(loss: Any, parameters: list[Parameter], contract: Contract) -> Iterator[tuple[str, Schema]]:
    for name, schema in _candidates(loss, parameters, contract):
        for of_its_size in sized(loss, schema):
            yield name, of_its_size


def _candidates(loss: Any, parameters: list[Parameter], contract: Contract) -> Iterator[tuple[str, Schema]]:
    names = required_parameters(loss)
    classes = class_counts(contract.fields)
    declared = {name: declared_slot(name, field, classes.get(name)) for name, field in contract.fields.items()}
    known = slots_of_torch_loss(loss)
    if known is not None and (_is_of_torch(loss) or [slot.name for slot in known] == names):
        renamed = [replace(slot, name=name) for slot, name in zip(known, names, strict=True)]
        yield "its documented inputs", Schema(tuple(declared.get(slot.name, slot) for slot in renamed))
    tensors = _tensor_parameters(loss, parameters, contract)
    required = [p for p in tensors if p.default is Parameter.empty]
    for offered in (tensors, required) if len(required) < len(tensors) else (tensors,):
        yield from _as_declared(loss, offered, contract.fields)
        yield from _readings(loss, offered, declared)
    # Last: a function that shifts for itself, fed whole sequences as in a batch of the vocabulary.
    fields = [_of_vocabulary(p) for p in tensors]
    if all(slot is not None for slot in fields):
        chosen = [declared.get(slot.name, slot) for slot in fields if slot is not None]
        yield "the fields of a batch [B, S] and its model outputs", Schema(tuple(chosen))


def _of_vocabulary(parameter: Parameter) -> Slot | None:
    slot = vocabulary_argument(bare(parameter.name), optional=parameter.default is not Parameter.empty)
    return slot and replace(slot, name=parameter.name)


def _is_size(parameter: Parameter) -> bool:
    return parameter.name in SIZES and parameter.default in (Parameter.empty, None)


def _size(name: str, case: Case) -> int | None:
    for slot in case.slots():
        if SIZES[name] in slot.shape:
            return case.tensor(slot).shape[slot.shape.index(SIZES[name])]
    return None


def _is_of_torch(loss: Any) -> bool:
    """Return whether the call is torch's own code, so that its inputs are the documented ones whatever they are called."""
    function = loss.func if isinstance(loss, functools.partial) else getattr(loss, "forward", loss)
    return str(getattr(function, "__module__", "")).startswith("torch.nn.")


def _readings(loss: Any, offered: list[Parameter], declared: Mapping[str, Slot]) -> Iterator[tuple[str, Schema]]:
    meanings = meanings_of(p.name for p in offered if p.name not in declared)
    known = {name: meaning for name, meaning in meanings.items() if meaning is not None}
    if len(known) < len(meanings):
        return
    if not known:
        if offered:
            yield "the declared fields", Schema(tuple(declared[p.name] for p in offered))
        return
    for reading, slots in readings(known, _ignored_label(loss)):
        optional = {p.name for p in offered if p.default is not Parameter.empty}
        chosen = [declared.get(p.name) or slots[p.name] for p in offered]
        yield reading.name, Schema(tuple(replace(slot, optional=slot.name in optional) for slot in chosen))


def _as_declared(loss: Any, offered: list[Parameter], declared: Mapping[str, Field]) -> Iterator[tuple[str, Schema]]:
    """Yield what the names say of everything offered where it agrees with every declared field, and says more than it."""
    known = {name: meaning for name, meaning in meanings_of(p.name for p in offered).items() if meaning is not None}
    if not declared.keys() & known.keys() or len(known) < len(offered):
        return
    for reading, slots in readings(known, _ignored_label(loss)):
        chosen = [slots[p.name] for p in offered]
        if agrees_with(chosen, declared):
            optional = {p.name for p in offered if p.default is not Parameter.empty}
            yield f"{reading.name}, as declared", Schema(tuple(declared_again(s, declared, optional) for s in chosen))


def _tensor_parameters(loss: Any, parameters: list[Parameter], contract: Contract) -> list[Parameter]:
    """Return the parameters to feed: required ones, declared ones, and optional ones whose name is known.

    Raises:
        CannotFeed: a required parameter whose meaning is not known, or no parameter at all.
    """
    found = []
    required = [p.name for p in parameters if p.default is Parameter.empty and p.kind not in VARIADIC]
    for parameter in parameters:
        if parameter.kind in VARIADIC or _is_size(parameter):
            continue
        declared = parameter.name in contract.fields
        meaning = meaning_of(parameter.name)
        if parameter.default is Parameter.empty and not (
            declared or meaning or loose_meaning(parameter.name, required)
        ):
            if is_list_of_tensors(parameter):
                raise list_of_tensors(parameter.name, annotation_of(parameter))
            raise unknown_parameter(loss, parameter.name)
        if parameter.default is Parameter.empty or declared or (parameter.default is None and meaning is not None):
            found.append(parameter)
    listed = {parameter.name for parameter in found}
    if not found or any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
        # A function that hides its parameters can be fed what is declared.
        hidden = [name for name in contract.fields if name not in listed]
        found += [Parameter(name, Parameter.KEYWORD_ONLY) for name in hidden]
    if not found:
        raise no_parameters()
    return found


def _ignored_label(loss: Any) -> int | None:
    """Return the label the loss is known to ignore: its attribute, or a setting of that name."""
    own = getattr(loss, "ignore_index", None)
    if isinstance(own, int):
        return own
    default = next((p.default for p in parameters_of(loss) if p.name in ("ignore_index", "ignore_label")), None)
    given = loss.keywords.get("ignore_index", default) if isinstance(loss, functools.partial) else default
    return given if isinstance(given, int) else None


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


def _shifted(schema: Schema, outcome: Probe) -> Schema:
    """Return the schema with scores aligned as the loss aligns them: some shift labels and masks by one themselves."""
    says = any((s.ignore is not None or s.role == "mask") and s.token_axis is not None for s in schema.slots)
    logits = schema.find("model_outputs.logits")
    if not says or logits is None or outcome.case is None or logits.key not in (outcome.gradients or {}):
        return schema
    gradients, trained = outcome.gradients or {}, outcome.case.trained
    alike = [slot for slot in schema.slots if slot.shape == logits.shape and slot.role == logits.role]
    found = {slot.key: _shift(gradients[slot.key], trained) for slot in alike if slot.key in gradients}
    # What is compared with them position by position, the logits of a teacher, speaks of the same tokens.
    shifts = {slot.key: found.get(slot.key, found[logits.key]) for slot in alike}
    return replace(schema, slots=tuple(replace(s, shift=shifts.get(s.key, s.shift)) for s in schema.slots))


def _shift(gradient: Tensor, trained: Tensor) -> int:
    """Return how far ahead the scores of a position speak: 1 for the next token, more for heads that predict later ones."""
    reached = gradient.abs().sum(dim=-1) != 0
    tokens = reached.shape[1]
    covered = {0: 0.0}
    for ahead in range(min(_FARTHEST, tokens - 1) + 1):
        speaks, wanted = reached[:, : tokens - ahead], trained[:, ahead:]
        # A trained token may get nothing, a clipped one; one that is not trained never does.
        if not bool((speaks & ~wanted).any()) and not bool(reached[:, tokens - ahead :].any()):
            covered[ahead] = float((speaks & wanted).sum()) / max(float(wanted.sum()), 1.0)
    return max(covered, key=lambda ahead: (covered[ahead], -ahead))
