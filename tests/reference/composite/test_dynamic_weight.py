from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, DPOLoss, DynamicWeightLoss, NLLLoss
from tests.oracles import composite as oracle
from tests.reference.composite.helpers import f64, gradient_of, losses, oracle_values, usual, value_of

DPO_AND_NLL = [{"type": "dpo"}, {"type": "nll"}]
MODES = ["robust", "literal"]
VALUES = [(1.0, 2.0), (3.0, 0.01), (500.0, 1.0), (-1.0, 2.0), (1.0, -1e-3, 4.0), (2.0, 2.0, 2.0), (0.5,)]


def dynamic(**config: Any) -> DynamicWeightLoss:
    return DynamicWeightLoss({"loss_functions": DPO_AND_NLL, **config})


def weights_of(values: tuple[float, ...], **config: Any) -> list[float]:
    loss = DynamicWeightLoss({"base_weights": [1.0] * len(values), **config})
    return [float(w) for w in loss.compute_dynamic_weights([f64(value) for value in values])]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("values", VALUES)
def test_weights_equal_the_oracle(values: tuple[float, ...], mode: str) -> None:
    expected = oracle.dynamic_weights(values, [1.0] * len(values), adaptation_rate=0.1, mode=mode)
    assert weights_of(values, mode=mode, adaptation_rate=0.1) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_value_equals_the_oracle(seed: int, mode: str) -> None:
    batch, outputs = usual(seed, sample_mask="floats")
    loss = dynamic(base_weights=[0.5, 2.0], adaptation_rate=0.3, mode=mode)
    values = oracle_values(batch, outputs)
    expected = oracle.dynamic_weight(values, [0.5, 2.0], adaptation_rate=0.3, mode=mode)
    assert value_of(loss, batch, outputs).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("values", VALUES)
def test_the_sum_of_weights_is_conserved(values: tuple[float, ...], mode: str) -> None:
    assert sum(weights_of(values, mode=mode, adaptation_rate=0.1)) == pytest.approx(len(values), rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_equal_losses_and_rate_0_give_the_base_weights(mode: str) -> None:
    base = [0.25, 1.0, 3.0]
    assert weights_of((0.7, 0.7, 0.7), base_weights=base, mode=mode) == base
    assert weights_of((0.7, 5.0, 0.1), base_weights=base, mode=mode, adaptation_rate=0.0) == base
    assert weights_of((0.7, 0.7), base_weights=[0.0, 1.0], mode=mode) == [0.0, 1.0]


def test_losses_that_are_all_0_give_the_base_weights() -> None:
    assert weights_of((0.0, 0.0)) == [1.0, 1.0]
    assert all(math.isnan(w) for w in weights_of((0.0, 0.0), mode="literal"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("values", VALUES)
def test_scaling_every_loss_leaves_the_weights(values: tuple[float, ...], mode: str) -> None:
    scaled = tuple(7.0 * value for value in values)
    assert weights_of(scaled, mode=mode) == pytest.approx(weights_of(values, mode=mode), rel=1e-9)


def test_only_literal_falls_below_0() -> None:
    assert weights_of((500.0, 1.0)) == [2.0, 0.0]
    literal = weights_of((500.0, 1.0), mode="literal")
    assert literal == pytest.approx([5.99, -3.99])
    assert min(weights_of((101.0, 1.0), mode="literal")) == pytest.approx(0.0)


def test_a_small_divisor_keeps_its_sign() -> None:
    assert weights_of((1.0, 0.0)) == [2.0, 0.0]
    assert weights_of((1.0, -1e-30)) == [0.0, 2.0]


@pytest.mark.parametrize("mode", MODES)
def test_gradient_takes_the_weights_as_constants(mode: str) -> None:
    batch, outputs = usual(1)
    loss = dynamic(adaptation_rate=0.3, mode=mode)
    parts = [value_of(part, batch, outputs) for part in (DPOLoss(), NLLLoss())]
    weights = loss.compute_dynamic_weights(parts)
    assert not any(w.requires_grad for w in weights)
    expected = weights[0] * gradient_of(DPOLoss(), batch, outputs) + weights[1] * gradient_of(NLLLoss(), batch, outputs)
    torch.testing.assert_close(gradient_of(loss, batch, outputs), expected)


def test_all_masked_is_zero() -> None:
    batch, outputs = usual(1)
    batch["sample_mask"] = torch.zeros(4, dtype=torch.float64)
    assert value_of(dynamic(), batch, outputs).item() == 0.0
    assert torch.count_nonzero(gradient_of(dynamic(), batch, outputs)) == 0


def test_components_add_up() -> None:
    batch, outputs = usual(1)
    parts = dynamic(adaptation_rate=0.3).components(batch, outputs)
    assert list(parts) == ["dpo", "nll"]
    torch.testing.assert_close(parts["dpo"] + parts["nll"], value_of(dynamic(adaptation_rate=0.3), batch, outputs))


def test_the_guides_subclass_works() -> None:
    class Guide(DynamicWeightLoss):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.loss_functions = losses(1.0, 3.0)  # type: ignore[assignment]

        def compute_dynamic_weights(self, losses: Any) -> list[Any]:
            return [2.0 * w for w in super().compute_dynamic_weights(losses)]

    loss = Guide({"adaptation_rate": 0.3})
    assert value_of(loss, *usual()).item() == pytest.approx(2.0 * (0.8 * 1.0 + 1.2 * 3.0))
    assert loss.component_names() == ["Constant", "Constant_2"]


def test_no_value_leaves_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, values = DynamicWeightLoss(), [f64(1.0), f64(2.0)]
    for name in ("item", "__float__", "__bool__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_: pytest.fail("a value was read"))
    loss.compute_dynamic_weights(values)


MEANT = "there would be nothing to train on"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"base_weights": [1.0]}, "1 base_weights for 2 losses; expected one weight for each"),
    ({"base_weights": [1.0, -1.0]}, "base_weights=[1.0, -1.0]; expected numbers of at least 0"),
    ({"base_weights": [0, 0]}, f"every one of the base_weights is 0; {MEANT}"),
    ({"mode": "robus"}, "mode='robus'; expected one of 'robust', 'literal'; did you mean 'robust'?"),
    (
        {"loss_functions": [{"type": "dpo", "weight": 2.0}]},
        "one of the loss_functions has a 'weight'; the weights are base_weights here",
    ),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_refused_at_construction(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        dynamic(**config)
    assert str(error.value) == f"DynamicWeightLoss: {message}"


def test_lengths_are_strict() -> None:
    with pytest.raises(ValueError, match="DynamicWeightLoss: 3 losses for 2 base_weights; expected as many"):
        DynamicWeightLoss().compute_dynamic_weights([f64(1.0)] * 3)
    with pytest.raises(ValueError, match="0 losses for 2 base_weights"):
        DynamicWeightLoss().compute_loss(*usual())


def test_contract() -> None:
    contract = dynamic().contract
    assert (contract.surrogate_gradient, contract.coupled, contract.lower_bound) == (True, True, 0.0)
    assert contract.empty == "zero"
    literal = dynamic(mode="literal").contract
    assert (literal.lower_bound, literal.empty) == (None, "nan")
    assert contract.options["base_weights"].values == ((1.0, 1.0), (1.0, 0.5))
