"""The inputs a module or function may want, the likeliest first: what its parameters are called says which."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from inspect import Parameter
from typing import Any, Final

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Schema, Slot
from loss_conformance.subject.declared_slots import (
    agreement,
    declared_again,
    declared_slots,
    vocabulary_argument,
    with_ignored_label,
)
from loss_conformance.subject.own_sizes import sized
from loss_conformance.subject.parameter_names import SIZES, loose_meaning, meaning_of, meanings_of
from loss_conformance.subject.readings import readings
from loss_conformance.subject.signatures import (
    VARIADIC,
    annotation_of,
    is_list_of_tensors,
    parameters_of,
    required_parameters,
)
from loss_conformance.subject.torch_losses import slots_of_torch_loss
from loss_conformance.subject.unfed import list_of_tensors, no_parameters, unknown_parameter
from loss_conformance.subject.written_names import bare
from loss_reference.contract import Contract, Field

__all__ = ["candidates", "ignored_label", "is_size", "size_of"]

IGNORED: Final = ("ignore_index", "ignore_label", "label_pad_token_id")
"""What the label that marks what is not trained on is called."""


def candidates(loss: Any, parameters: list[Parameter], contract: Contract) -> Iterator[tuple[str, Schema]]:
    """Yield a name and the inputs of everything that might suit the loss, in every size its axes may have.

    Raises:
        CannotFeed: a required parameter whose meaning is not known, or no parameter at all.
    """
    for name, schema in _of_any_size(loss, parameters, contract):
        yield from ((name, of_its_size) for of_its_size in sized(loss, schema))


def _of_any_size(loss: Any, parameters: list[Parameter], contract: Contract) -> Iterator[tuple[str, Schema]]:
    names = required_parameters(loss)
    declared = declared_slots(contract.fields, ignored_label(loss))
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


def is_size(parameter: Parameter) -> bool:
    """Return whether a parameter repeats the size of an axis of another input."""
    return parameter.name in SIZES and parameter.default in (Parameter.empty, None)


def size_of(name: str, case: Case) -> int | None:
    """Return the size that the parameter ``name`` repeats, or ``None`` where no input of the case has that axis."""
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
    for reading, slots in readings(known, ignored_label(loss)):
        optional = {p.name for p in offered if p.default is not Parameter.empty}
        chosen = [declared.get(p.name) or slots[p.name] for p in offered]
        yield reading.name, Schema(tuple(replace(slot, optional=slot.name in optional) for slot in chosen))


def _as_declared(loss: Any, offered: list[Parameter], declared: Mapping[str, Field]) -> Iterator[tuple[str, Schema]]:
    """Yield what the names say of what is offered where it agrees with every declared field, and says more than it.

    Names that say nothing are what they are declared as, on the same axes.
    """
    known = {name: meaning for name, meaning in meanings_of(p.name for p in offered).items() if meaning is not None}
    unknown = {p.name: declared[p.name] for p in offered if p.name not in known and p.name in declared}
    if not declared.keys() & known.keys() or len(known) + len(unknown) < len(offered):
        return
    label, optional = ignored_label(loss), {p.name for p in offered if p.default is not Parameter.empty}
    for reading, slots in readings(known, label):
        letters = agreement([slots[name] for name in known], declared)
        # A mask alone says nothing of what it masks.
        if letters is not None and (not unknown or any(slots[name].trainable for name in known)):
            of_names = {name: declared_again(slots[name], declared, optional) for name in known}
            if unknown:  # a mask among the known ones may be of the others
                of_names = {name: with_ignored_label(slot, label) for name, slot in of_names.items()}
            others = {name: _on_axes(field, letters) for name, field in unknown.items()}
            rest = {name: replace(s, optional=name in optional) for name, s in declared_slots(others, label).items()}
            yield f"{reading.name}, as declared", Schema(tuple({**of_names, **rest}[p.name] for p in offered))


def _on_axes(field: Field, letters: Mapping[str, str]) -> Field:
    return replace(field, shape=" ".join(letters.get(letter, letter) for letter in field.shape.split()))


def _tensor_parameters(loss: Any, parameters: list[Parameter], contract: Contract) -> list[Parameter]:
    """Return the parameters to feed: required ones, declared ones, and optional ones whose name is known.

    Raises:
        CannotFeed: a required parameter whose meaning is not known, or no parameter at all.
    """
    found = []
    required = [p.name for p in parameters if p.default is Parameter.empty and p.kind not in VARIADIC]
    for parameter in parameters:
        if parameter.kind in VARIADIC or is_size(parameter):
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


def ignored_label(loss: Any) -> int | None:
    """Return the label the loss is known to ignore: its attribute, or a setting of that name."""
    own = next((each for name in IGNORED if isinstance(each := getattr(loss, name, None), int)), None)
    if own is not None:
        return own
    default = next((p.default for p in parameters_of(loss) if p.name in IGNORED), None)
    given = loss.keywords if isinstance(loss, functools.partial) else {}
    label = next((given[name] for name in IGNORED if name in given), default)
    return label if isinstance(label, int) else None
