from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference import (
    ComposedLoss,
    CustomDPOLoss,
    DPOLoss,
    LossFunction,
    MultiObjectiveLoss,
    NLLLoss,
    debug_loss_components,
)
from tests.reference.cases import case


class Guide:
    """A loss as the guide writes it, of no class of ours."""

    def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
        return model_outputs["next_token_logprobs"].sum() * 0 + 6.0

    def compute_dpo_loss(self, batch: Any, model_outputs: Any) -> Tensor:
        assert not torch.is_grad_enabled()
        return torch.tensor(1.0)

    def compute_sft_loss(self, batch: Any, model_outputs: Any) -> Tensor:
        return torch.tensor(2.0)

    def compute_custom_component(self, batch: Any, model_outputs: Any) -> Tensor:
        return torch.tensor(3.0)


def test_the_guides_methods_are_found() -> None:
    found = debug_loss_components(*case(0), Guide())
    assert found == {"dpo": 1.0, "sft": 2.0, "custom": 3.0, "total": 6.0}
    assert list(found) == ["dpo", "sft", "custom", "total"]


def test_a_loss_of_one_part_is_its_total() -> None:
    batch, outputs = case(0)
    assert debug_loss_components(batch, outputs, DPOLoss()) == {"total": DPOLoss()(batch, outputs).item()}


def test_parts_of_a_composite_with_their_weights() -> None:
    batch, outputs = case(0)
    loss = MultiObjectiveLoss({"weights": [1.0, 0.5]})
    found = debug_loss_components(batch, outputs, loss)
    assert list(found) == ["dpo", "sft", "total"]
    assert found["sft"] == pytest.approx(0.5 * NLLLoss()(batch, outputs).item())
    assert found["dpo"] + found["sft"] == pytest.approx(found["total"])


def test_methods_that_are_not_defined_are_left_out() -> None:
    batch, outputs = case(0)
    assert list(debug_loss_components(batch, outputs, MultiObjectiveLoss({"objectives": ["sft"]}))) == ["sft", "total"]


def test_a_component_that_is_yet_to_be_defined_is_left_out() -> None:
    class Undefined(CustomDPOLoss):
        def compute_custom_component(self, batch: Any, model_outputs: Any) -> Tensor:
            raise NotImplementedError

    batch, outputs = case(0)
    assert list(debug_loss_components(batch, outputs, Undefined({"custom_weight": 0.0}))) == ["dpo", "total"]


def test_a_sum_that_misses_something_shows_the_remainder() -> None:
    class Forgetful(ComposedLoss):
        def components(self, batch: Any, model_outputs: Any) -> dict[str, Tensor]:
            return {"dpo": super().components(batch, model_outputs)["dpo"]}

    batch, outputs = case(0)
    loss = Forgetful({"loss_functions": [{"type": "dpo"}, {"type": "nll"}]})
    found = debug_loss_components(batch, outputs, loss)
    assert found["remainder"] == pytest.approx(NLLLoss()(batch, outputs).item())


def test_prints_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    debug_loss_components(*case(0), Guide())
    assert capsys.readouterr().out == ""
    debug_loss_components(*case(0), Guide(), show=True)
    assert capsys.readouterr().out == "dpo: 1.0000\nsft: 2.0000\ncustom: 3.0000\ntotal: 6.0000\n"


def test_metrics_do_not_disturb() -> None:
    class WithMetrics(LossFunction):
        def compute_loss(self, batch: Any, model_outputs: Any) -> Any:
            return torch.tensor(2.0), {"n": 1}

    assert debug_loss_components(*case(0), WithMetrics()) == {"total": 2.0}


def test_a_part_that_is_no_scalar_is_refused() -> None:
    class Rows(LossFunction):
        def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
            return torch.ones(3)

    with pytest.raises(ValueError, match=r"the part 'total' gave shape \(3,\); expected a 0-dim tensor"):
        debug_loss_components(*case(0), Rows())
