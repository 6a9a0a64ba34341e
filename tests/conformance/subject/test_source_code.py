"""What the source of a loss says of itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loss_conformance.subject.source_code import compared_words, nodes_of


class Modes(nn.Module):
    def __init__(self, mode: str = "mean") -> None:
        super().__init__()
        self.mode = mode

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        losses = (input - target) ** 2
        if self.mode in ("mean", "batchmean"):
            return losses.mean()
        return losses.sum() if self.mode == "sum" else losses


def by_reduction(input: Tensor, target: Tensor, reduction: str = "mean", other: str = "no") -> Tensor:
    losses = (input - target) ** 2
    return losses.sum() if reduction == "sum" else losses.mean()


def test_the_words_a_setting_is_compared_with_stand_in_the_source() -> None:
    assert compared_words(Modes(), "mode") == ["mean", "batchmean", "sum"]
    assert compared_words(by_reduction, "reduction") == ["sum"]
    assert compared_words(by_reduction, "other") == []


def test_what_has_no_source_says_nothing() -> None:
    made: dict[str, object] = {}
    exec("def loss(input, mode='a'):\n    return input if mode == 'b' else -input", made)
    assert nodes_of(made["loss"]) is None
    assert compared_words(made["loss"], "mode") == []
    assert nodes_of(torch.nn.functional.mse_loss) is not None
