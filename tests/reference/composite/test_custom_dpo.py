from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference import ConfigError, CustomDPOLoss, DPOLoss, create_loss_function, registry
from tests.oracles import composite as oracle
from tests.reference.composite.helpers import gradient_of, oracle_values, usual, value_of


class DPOPlusNLL(CustomDPOLoss):
    def compute_custom_component(self, batch: Mapping[str, Tensor], model_outputs: Mapping[str, Tensor]) -> Tensor:
        result = registry.create("nll").compute_loss(batch, model_outputs)
        assert isinstance(result, Tensor)
        return result


class Poisoned(CustomDPOLoss):
    def compute_custom_component(self, batch: Any, model_outputs: Any) -> Tensor:
        return model_outputs["next_token_logprobs"].sum() * math.nan


@pytest.mark.parametrize("weight", [1.0, 0.3, -2.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_oracle(seed: int, weight: float) -> None:
    batch, outputs = usual(seed, sample_mask="floats")
    expected = oracle.weighted_sum(oracle_values(batch, outputs), [1.0, weight])
    assert value_of(DPOPlusNLL({"custom_weight": weight}), batch, outputs).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cls", [CustomDPOLoss, Poisoned, DPOPlusNLL])
def test_weight_0_is_dpo_bit_for_bit(cls: type[CustomDPOLoss]) -> None:
    batch, outputs = usual(1)
    loss = cls({"custom_weight": 0.0, "beta": 0.7})
    assert torch.equal(value_of(loss, batch, outputs), value_of(DPOLoss({"beta": 0.7}), batch, outputs))
    assert torch.equal(gradient_of(loss, batch, outputs), gradient_of(DPOLoss({"beta": 0.7}), batch, outputs))


def test_affine_in_the_weight_and_gradient_additive() -> None:
    batch, outputs = usual(2)
    at = {w: DPOPlusNLL({"custom_weight": w}) for w in (0.0, 1.0, 3.0)}
    value = {w: value_of(loss, batch, outputs) for w, loss in at.items()}
    torch.testing.assert_close(value[3.0] - value[0.0], 3 * (value[1.0] - value[0.0]))
    expected = gradient_of(DPOLoss(), batch, outputs) + 3 * gradient_of(registry.create("nll"), batch, outputs)
    torch.testing.assert_close(gradient_of(at[3.0], batch, outputs), expected)


def test_components_add_up() -> None:
    batch, outputs = usual(2)
    loss = DPOPlusNLL({"custom_weight": 0.3})
    parts = loss.components(batch, outputs)
    assert list(parts) == ["dpo", "custom"]
    assert torch.equal(parts["dpo"] + parts["custom"], value_of(loss, batch, outputs))
    assert list(CustomDPOLoss({"custom_weight": 0.0}).components(batch, outputs)) == ["dpo"]


def test_the_component_of_its_own_is_the_nll_of_the_chosen_rows_per_token() -> None:
    lp = torch.tensor(
        [[-1.0, -2.0, -9.0], [-3.0, -4.0, -9.0], [-5.0, -6.0, -7.0], [-1.0, -1.0, -1.0]], dtype=torch.float64
    )
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 1, 1, 1]], dtype=torch.float64)
    batch = {"token_mask": mask, "reference_policy_logprobs": torch.zeros(4, 4, dtype=torch.float64)}
    component = CustomDPOLoss().compute_custom_component(batch, {"next_token_logprobs": lp})
    # Chosen rows 0 and 2: (1 + 2) / 2 = 1.5 and 6 / 1 = 6; their mean is 3.75.
    assert component.item() == pytest.approx(3.75, abs=1e-15)


def test_a_component_that_is_no_scalar_is_refused() -> None:
    class PerRow(CustomDPOLoss):
        def compute_custom_component(self, batch: Any, model_outputs: Any) -> Tensor:
            return model_outputs["next_token_logprobs"].sum(dim=1)

    with pytest.raises(ValueError, match=r"the part 'custom' gave shape \(4,\); expected a 0-dim tensor"):
        PerRow().compute_loss(*usual())


def test_the_guides_own_subclass_works() -> None:
    class GuideCustomDPOLoss(DPOLoss):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.custom_weight = config.get("custom_weight", 1.0)

        def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
            base_loss = super().compute_loss(batch, model_outputs)
            return base_loss + self.custom_weight * self.compute_custom_component(batch, model_outputs)

        def compute_custom_component(self, batch: Any, model_outputs: Any) -> Tensor:
            return DPOPlusNLL.compute_custom_component(self, batch, model_outputs)  # type: ignore[arg-type]

    batch, outputs = usual(3)
    guide, ours = GuideCustomDPOLoss({"custom_weight": 0.4}), DPOPlusNLL({"custom_weight": 0.4})
    assert torch.equal(value_of(guide, batch, outputs), value_of(ours, batch, outputs))
    assert guide.contract is DPOLoss.contract


def test_registration_contract_and_config() -> None:
    assert type(create_loss_function({"type": "dpo_plus_component"})) is CustomDPOLoss
    assert CustomDPOLoss.contract.lower_bound == -math.inf
    assert CustomDPOLoss.contract.options["custom_weight"].reduces_to == {0.0: "dpo"}
    assert CustomDPOLoss.contract.level == "pair"
    with pytest.raises(ConfigError, match=r"unknown config key 'custom_wieght'.*did you mean 'custom_weight'"):
        CustomDPOLoss({"custom_wieght": 1.0})
    with pytest.raises(ConfigError, match="CustomDPOLoss: custom_weight=nan; expected a finite number"):
        CustomDPOLoss({"custom_weight": math.nan})
