"""Sequences packed end to end, evaluated one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.composite.combine import combine, split_result
from loss_reference.composite.packed import PackedView, Packing
from loss_reference.composite.parts import create_part
from loss_reference.composite.promises import contract_of, promises_of_sum, refined
from loss_reference.contract import Contract
from loss_reference.interface import Batch, LossFunction, LossResult, Outputs
from loss_reference.registry import register
from loss_reference.settings import ConfigError, Setting

__all__ = ["SequencePackingLoss"]


@register("sequence_packing")
class SequencePackingLoss(LossFunction):
    """Packed sequences: L = the sum of a loss over N sequences, each cut out of its pack and given the whole batch's counts.

    Equals the loss on the N sequences padded to one length, without the padding. ``input_lengths`` [N] says how long each
    is: sequence i takes tokens c_i to c_(i+1) - 1 of its pack, c the running sum of the lengths (``cu_seqlens``). Every
    field with a token axis, of the batch or of the model outputs, may be *packed*, [1, W, ...] with W at least the sum of the
    lengths (``next_token_logprobs`` [1, W-1]: the entry between two sequences is not read), or *padded*, [N, S, ...], of which
    everything behind the length is cut off. Fields of one entry per sequence are [N, ...], counts are scalars.

    Reads what its loss reads, ``input_lengths`` and ``token_mask``; without ``global_valid_toks`` and ``global_valid_seqs``
    those of this batch are counted before it is taken apart. Rows that the loss compares (pairs, groups of K) are
    evaluated together, padded to the longest among them. Range and gradient are those of the loss. The lengths are read on
    the CPU. A loss that returns (loss, metrics) makes this one return both, as ``"sequence_i/metric"``.

    Config: ``loss``, the config of the loss (``{"type": "nll"}``).

    Raises:
        ConfigError: no config with a type; a loss whose rows look at one another beyond their group, that keeps state, or
            that divides by counts of its own: a sum over sequences is not that loss.
        KeyError: no ``input_lengths``, or whatever the loss misses.
        ValueError: lengths that do not fit their pack, fields that are neither packed nor padded.

    Terms: ``weighted_sum`` of the sequences, each with weight 1.

    Source: NeMo RL ``SequencePackingLossWrapper``, with padded batch and packed logits.
    """

    contract = Contract(family="composite", exempt={"one_graph": "it takes a pack apart by the lengths it holds"})
    loss: Setting[Mapping[str, Any]] = Setting({"type": "nll"}, check=False)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        owner = type(self).__name__
        self.part = create_part(owner, "loss", self.loss)
        part = contract_of(self.part)
        for trouble, why in (
            (part.coupled, "compares rows beyond their group"),
            (part.stateful, "keeps state from call to call"),
            (part.normalizer == "local", "divides by counts of its own"),
        ):
            if trouble:
                raise ConfigError(f"{owner}: {self.loss['type']!r} {why}; its sum over sequences would be another loss")
        self.group_size = part.group_size or (2 if part.level == "pair" else 1)
        facts = promises_of_sum([(1.0, part)])
        facts.pop("length_normalized", None)  # a repeated token needs another length
        if set(self.loss) <= {"type"}:
            facts["baseline"] = self.loss["type"]
        self.contract = refined(type(self).contract, group_size=self.group_size, **facts)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        results = self._results(batch, model_outputs)
        return combine([(f"sequence_{i}", 1.0, result) for i, result in enumerate(results)])

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        """Return the share of every sequence (pair, group) as ``"sequence_i"``; they add up to the loss."""
        results = self._results(batch, model_outputs)
        return {f"sequence_{i}": split_result("loss", result)[0] for i, result in enumerate(results)}

    def _results(self, batch: Batch, model_outputs: Outputs) -> list[LossResult]:
        packing = Packing.of(batch, contract_of(self.part).fields, self.group_size)
        return [
            self.part.compute_loss(PackedView(batch, packing, group), PackedView(model_outputs, packing, group))
            for group in packing.groups()
        ]
