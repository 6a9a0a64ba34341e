"""The arguments of a call as a batch of the vocabulary, so that a reference loss can be asked about the same numbers."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Schema
from loss_conformance.subject.laid_out_rows import Argument, NoCounterpart, embeddings_laid_out, pairs_laid_out
from loss_conformance.subject.laid_out_tokens import tokens_laid_out
from loss_conformance.subject.parameter_names import meanings_of
from loss_conformance.subject.protocol import CallingProtocol
from loss_reference.contract import Contract
from loss_reference.interface import ModelOutputs

__all__ = ["LaidOutProtocol", "NoCounterpart"]

_EMBEDDINGS: Final = ("embeddings", "image_embeddings", "text_embeddings")
_TRIPLET: Final = ("anchor_embeddings", "positive_embeddings", "negative_embeddings")
_MISMATCHED: Final = ("pair.policy_other_logps", "pair.reference_other_logps")
_OF_THE_MODEL: Final = {
    **{name: name for name in ("logits", "next_token_logprobs", *_EMBEDDINGS, *_TRIPLET)},
    "values of the model": "values",
    "rewards of the model": "rewards",
}
"""What is laid out for the model outputs: its name here, and its name there."""


class LaidOutProtocol(CallingProtocol):
    """A reference loss, called with the arguments of a loss that is called by parameter names.

    Args:
        groups: how many rows one term of the reference compares.
        summed: the loss under test adds its terms up, so the reference divides by 1.
    """

    name: ClassVar[str] = "a batch laid out from arguments"
    foreign: ClassVar[bool] = False

    def __init__(self, groups: int, summed: bool) -> None:
        self.groups, self.summed = groups, summed

    def routes(self, loss: Any, contract: Contract) -> tuple[Schema, ...]:
        raise NotImplementedError("it is fed what another loss is fed")

    def hand_over(self, loss: Any, case: Case) -> Any:
        """Call the reference.

        Raises:
            NoCounterpart: an argument of the other loss has no place in a batch.
        """
        others, given = _without_mismatched(_arguments(case))
        if any(argument.meaning.startswith("pair.") for argument in given):
            fields = pairs_laid_out(given)
        elif any(argument.meaning == "embedding" for argument in given):
            fields = embeddings_laid_out(given)
        else:
            fields = tokens_laid_out(given)
        fields |= others
        if self.summed:
            fields |= {"global_valid_toks": torch.tensor(1.0), "global_valid_seqs": torch.tensor(float(self.groups))}
        outputs = {known: fields.pop(name) for name, known in _OF_THE_MODEL.items() if name in fields}
        return loss.compute_loss(fields, ModelOutputs(outputs))


def _without_mismatched(given: list[Argument]) -> tuple[dict[str, Tensor], list[Argument]]:
    """Return what the log-probabilities of mismatched answers say, from which KTO takes its reference point, and the rest."""
    found = {argument.meaning: argument.numbers for argument in given if argument.meaning in _MISMATCHED}
    rest = [argument for argument in given if argument.meaning not in _MISMATCHED]
    if len(found) < len(_MISMATCHED):
        return {}, given
    ratios = (found[_MISMATCHED[0]] - found[_MISMATCHED[1]]).detach()
    paired = any(argument.meaning.startswith("pair.") for argument in rest)
    rows = {"mismatched_log_ratios": ratios.repeat_interleave(2) if paired else ratios}
    if paired:
        rows["labels"] = torch.tensor([1, 0]).repeat(len(ratios))
    return rows, rest


def _arguments(case: Case) -> list[Argument]:
    meanings = meanings_of(slot.name for slot in case.slots())
    return [Argument(meanings[slot.name] or "", slot, case.tensor(slot)) for slot in case.slots()]
