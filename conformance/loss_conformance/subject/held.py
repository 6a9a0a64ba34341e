"""Arguments that hold tensors: a dict of the batch, the outputs of a model, a list with one tensor for each row."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from inspect import Parameter
from typing import Any, Final

from loss_conformance.subject.parameter_names import loose_meaning, meaning_of
from loss_conformance.subject.signatures import VARIADIC, annotation_of, is_list_of_tensors, parameters_of
from loss_conformance.subject.watching import WatchedMapping
from loss_conformance.subject.written_names import OUTPUTS, holds_a_batch, written

__all__ = ["Asked", "Holders", "ways_to_hold"]

_MAPPING: Final = re.compile(
    r"(dict|mapping|mutablemapping|tensordict|batchencoding|modeloutput|causallmoutput\w*)(\[.*\])?", re.IGNORECASE
)
_ROWS: Final = "one tensor for each row"
_WHOLE: Final = "a list of one tensor"


class _HeldParameter(Parameter):
    """A tensor inside an argument, called as a person writes it: ``batch["advantages"]``."""

    __slots__ = ("_written",)

    def __init__(self, name: str, optional: bool) -> None:
        super().__init__("held", Parameter.KEYWORD_ONLY, default=None if optional else Parameter.empty)
        self._written = name

    @property
    def name(self) -> str:
        return self._written


@dataclass(frozen=True)
class Asked:
    """A field that a loss asked an argument for in vain.

    Attributes:
        argument: the argument.
        field: the field.
        optional: it asked whether the field is there, or said what to take without it.
    """

    argument: str
    field: str
    optional: bool

    @property
    def name(self) -> str:
        """The field as a person writes it."""
        return written(self.argument, self.field)


@dataclass
class Holders:
    """Which arguments of a call hold tensors, and which tensors.

    Attributes:
        fields: for an argument that is a mapping, or is read by attribute: its fields, each with whether it is optional.
        lists: for an argument that is a list of tensors: whether it gets one for each row, or one that is the whole.
    """

    fields: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)
    _given: list[WatchedMapping] = field(default_factory=list, repr=False)

    def parameters(self, loss: Callable[..., Any]) -> list[Parameter]:
        """Return the parameters of the call, with the tensors an argument holds in its place."""
        found: list[Parameter] = []
        for parameter in parameters_of(loss):
            held = self.fields.get(parameter.name)
            found += (
                [parameter] if held is None else [_HeldParameter(written(parameter.name, k), held[k]) for k in held]
            )
        return found

    def filled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is handed over when the tensors are ``given`` by the names of :meth:`parameters`."""
        loose = dict(given)
        self._given = []
        for argument, keys in self.fields.items():
            inside = {key: loose.pop(name) for key in keys if (name := written(argument, key)) in loose}
            self._given.append(WatchedMapping(argument, inside))
        for argument, way in self.lists.items():
            if argument in loose:
                loose[argument] = list(loose[argument].unbind(0)) if way is _ROWS else [loose[argument]]
        return {**loose, **{mapping.place: mapping for mapping in self._given}}

    def asked(self) -> list[Asked]:
        """Return what the last call asked for in vain and is not held yet, in that order."""
        return [
            Asked(mapping.place, name, not hard)
            for mapping in self._given
            for name, hard in mapping.missed.items()
            # An optional field is left out of some of the calls that are tried.
            if name not in self.fields[mapping.place]
        ]

    def with_field(self, asked: Asked) -> Holders:
        """Return the same with one more field in an argument."""
        held = {**self.fields[asked.argument], asked.field: asked.optional}
        return replace(self, fields={**self.fields, asked.argument: held}, _given=[])


def ways_to_hold(loss: Callable[..., Any], declared: Collection[str]) -> Iterator[Holders]:
    """Yield what the arguments of a call may hold, the likeliest first: as its names and annotations say, then objects.

    ``outputs`` may be a tensor or what holds the logits, so it is tried as the one before it is tried as the other.
    """
    open_ended = [p for p in parameters_of(loss) if p.default is Parameter.empty and p.kind not in VARIADIC]
    names = [p.name for p in open_ended]
    required = [p for p in open_ended if p.name not in declared]
    mappings: dict[str, dict[str, bool]] = {p.name: {} for p in required if _is_mapping(p, names)}
    lists = [p.name for p in required if is_list_of_tensors(p)]
    for way in (_ROWS, _WHOLE) if lists else (_WHOLE,):
        yield Holders(mappings, dict.fromkeys(lists, way))
    outputs: dict[str, dict[str, bool]] = {p.name: {} for p in required if p.name.lower() in OUTPUTS}
    if outputs.keys() - mappings.keys() and not lists:
        yield Holders({**mappings, **outputs})


def _is_mapping(parameter: Parameter, beside: Collection[str]) -> bool:
    annotation = annotation_of(parameter)
    if annotation:
        outermost = annotation if "[" in annotation else annotation.rpartition(".")[2]
        if _MAPPING.fullmatch(outermost):
            return True
        if "tensor" in annotation.lower():
            return False
    says_more = meaning_of(parameter.name) or loose_meaning(parameter.name, beside)
    return holds_a_batch(parameter.name) and says_more is None
