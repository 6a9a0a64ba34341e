"""A weighted sum whose weights follow how fast each loss has been falling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.composite.combine import Weight, split_result
from loss_reference.composite.composed import ComposedLoss, require_unweighted
from loss_reference.composite.promises import contract_of, overrides, promises_of_sum, refined
from loss_reference.contract import Contract, Option
from loss_reference.interface import Batch, LossResult, Outputs
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.view import ReadOnlyView

__all__ = ["DWALoss", "dwa_weights"]

SMALLEST_DIVISOR: Final = 1e-8


def dwa_weights(previous: Tensor, before: Tensor, temperature: float = 2.0) -> Tensor:
    """Return n softmax((previous / before) / temperature) [n]: the loss that has fallen least weighs most.

    Args:
        previous: the n losses of the call before this one.
        before: those of the call before that; each is taken at least 1e-8 away from 0.
        temperature: above 0; the higher, the more equal the weights.
    """
    divisor = torch.where(before < 0, -1.0, 1.0) * before.abs().clamp(min=SMALLEST_DIVISOR)
    return len(previous) * torch.softmax(previous / divisor / temperature, dim=0)


@register("dwa")
class DWALoss(ComposedLoss):
    """Dynamic weight average: L = sum_i w_i L_i, w_i = n softmax_i((L_i(t-1) / L_i(t-2)) / T).

    A loss that has fallen less than the others from one call to the next weighs more. The weights sum to n, are all 1 on
    the first two calls and wherever all ratios are equal, and carry no gradient: sum_i w_i grad L_i. Reads what its losses
    read. *Stateful*: the losses of the last two calls in training mode are buffers (``history``, ``calls``), saved with
    the state; in evaluation mode they are used and not updated. One call is one step here; the paper averages over an
    epoch. Microbatches do not add up to the whole. Metrics and names as in ``ComposedLoss``.

    Config: ``losses``, a list of configs as ``loss_functions`` of ``ComposedLoss``, without ``weight``; ``temperature`` T
    (2, above 0).

    Raises:
        ConfigError: no losses, an entry that is no config or has a weight, a setting out of range or unknown.
        ValueError: a loss that is not a 0-dim tensor, and whatever they raise.

    Terms: ``weighted_sum`` of the losses with ``dwa_weights``.

    Source: arXiv 1803.10704, section 3.2.
    """

    contract = Contract(
        family="composite",
        surrogate_gradient=True,
        coupled=True,
        stateful=True,
        options={"temperature": Option((0.5, 2.0, 10.0), inert=True)},  # until the third call
    )
    entries: Setting[Sequence[Mapping[str, Any]]] = Setting((), key="losses", check=False)
    temperature = Setting(2.0, above=0.0)
    history: Tensor
    calls: Tensor

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        require_unweighted(type(self).__name__, "losses", self.entries)
        self.register_buffer("history", torch.ones(2, len(self.entries)))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        if not overrides(self, DWALoss, "create_loss_function"):
            facts = promises_of_sum([(1.0, contract_of(loss)) for loss in self.loss_functions])
            least = facts.pop("lower_bound", None)
            for depends_on_weights in ("upper_bound", "direction"):
                facts.pop(depends_on_weights, None)
            if least is not None and least >= 0:
                facts["lower_bound"] = 0.0
            self.contract = refined(type(self).contract, **facts)

    def weighted_losses(self, batch: Batch, model_outputs: Outputs) -> list[tuple[str, Weight, LossResult]]:
        """Return (name, weight, result) of every loss; in training mode its value is remembered."""
        view = ReadOnlyView(batch), ReadOnlyView(model_outputs)
        names = self.component_names()
        results = [loss.compute_loss(*view) for loss in self.losses()]
        values = torch.stack([split_result(n, result)[0].detach() for n, result in zip(names, results, strict=True)])
        weights = self.weights_of_call(values)
        if self.training:
            self.history, self.calls = torch.stack((self.history[1].to(values), values)), self.calls + 1
        return list(zip(names, weights.unbind(), results, strict=True))

    def weights_of_call(self, like: Tensor) -> Tensor:
        """Return the weights [n] of the call to come, of the dtype and on the device of ``like``."""
        before, previous = self.history.to(like).unbind()
        known = self.calls.to(like.device) >= 2
        return torch.where(known, dwa_weights(previous, before, self.temperature), torch.ones_like(previous))

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        """Return w_i L_i by name, which add up to the loss of the same call; nothing is remembered."""
        training = self.training
        self.training = False
        try:
            parts = self.weighted_losses(batch, model_outputs)
        finally:
            self.training = training
        return {n: w * split_result(n, result)[0] for n, w, result in parts}
