"""Small losses and cases for the tests of the composites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.oracles.preference import dpo as dpo_oracle
from tests.oracles.supervised import nll as nll_oracle
from tests.reference.cases import Tensors, case, value_and_gradient


class Constant(LossFunction):
    """``value`` plus 0 times what it trains, so that composites can be fed any loss value."""

    def compute_loss(self, batch: Mapping[str, Tensor], model_outputs: Mapping[str, Tensor]) -> Tensor:
        x = model_outputs["next_token_logprobs"].sum()
        return x - x.detach() + self.config["value"]


class WithMetrics(Constant):
    def compute_loss(self, batch: Any, model_outputs: Any) -> Any:
        return super().compute_loss(batch, model_outputs), {"seen": 3.0}


class Vandal(LossFunction):
    def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
        batch["token_mask"] = None
        return model_outputs["next_token_logprobs"].sum()


class NotANumber(LossFunction):
    def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
        return model_outputs["next_token_logprobs"].sum() * float("nan")


def losses(*values: float) -> list[LossFunction]:
    return [Constant({"value": value}) for value in values]


def usual(seed: int = 0, **kwargs: Any) -> tuple[Tensors, Tensors]:
    return case(seed, **kwargs)


def value_of(loss: LossFunction, batch: Tensors, outputs: Tensors) -> Tensor:
    return value_and_gradient(loss, batch, outputs, "next_token_logprobs")[0]


def gradient_of(loss: LossFunction, batch: Tensors, outputs: Tensors) -> Tensor:
    return value_and_gradient(loss, batch, outputs, "next_token_logprobs")[1]


def oracle_values(batch: Tensors, outputs: Tensors) -> tuple[float, float]:
    """DPO and NLL of the oracles."""
    arrays = {k: x.numpy() for k, x in batch.items()}, {k: x.numpy() for k, x in outputs.items()}
    return dpo_oracle(*arrays), nll_oracle(*arrays)


def f64(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
