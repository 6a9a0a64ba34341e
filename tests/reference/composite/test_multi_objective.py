from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference import ConfigError, Contract, DPOLoss, LossFunction, MultiObjectiveLoss, NLLLoss, register, registry
from loss_reference.composite.promises import promises_of_sum
from tests.oracles import composite as oracle
from tests.reference.composite.helpers import NotANumber, WithMetrics, gradient_of, oracle_values, usual, value_of


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.5, 2.0], [1.0, 0.0], (0, 1), [1.0, -0.5]])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_oracle(seed: int, weights: Any) -> None:
    batch, outputs = usual(seed, sample_mask="floats", counts=True)
    expected = oracle.weighted_sum(oracle_values(batch, outputs), weights)
    assert value_of(MultiObjectiveLoss({"weights": weights}), batch, outputs).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_gradient_is_the_weighted_sum_and_order_is_free() -> None:
    batch, outputs = usual(1)
    loss = MultiObjectiveLoss({"weights": [0.5, 2.0]})
    expected = 0.5 * gradient_of(DPOLoss(), batch, outputs) + 2.0 * gradient_of(NLLLoss(), batch, outputs)
    torch.testing.assert_close(gradient_of(loss, batch, outputs), expected)
    turned = MultiObjectiveLoss({"objectives": ["sft", "dpo"], "weights": [2.0, 0.5]})
    torch.testing.assert_close(value_of(turned, batch, outputs), value_of(loss, batch, outputs))


def test_weight_0_is_not_evaluated() -> None:
    class Half(MultiObjectiveLoss):
        def compute_sft_loss(self, batch: Any, model_outputs: Any) -> Tensor:
            raise AssertionError("evaluated")

    batch, outputs = usual(1)
    loss = Half({"weights": [1.0, 0.0]})
    assert torch.equal(value_of(loss, batch, outputs), value_of(DPOLoss(), batch, outputs))
    assert list(loss.components(batch, outputs)) == ["dpo"]


def test_nan_in_a_part_of_weight_0_does_not_reach_the_sum() -> None:
    class Half(MultiObjectiveLoss):
        def compute_sft_loss(self, batch: Any, model_outputs: Any) -> Any:
            return NotANumber().compute_loss(batch, model_outputs)

    assert value_of(Half({"weights": [1.0, 0.0]}), *usual(1)).isfinite()
    assert value_of(Half(), *usual(1)).isnan()


def test_any_registered_loss_with_its_settings() -> None:
    batch, outputs = usual(2)
    loss = MultiObjectiveLoss({"objectives": ["dpo", "nll"], "settings": {"dpo": {"beta": 0.5}}})
    parts = loss.components(batch, outputs)
    assert list(parts) == ["dpo", "nll"]
    assert torch.equal(parts["dpo"], value_of(DPOLoss({"beta": 0.5}), batch, outputs))
    assert torch.equal(parts["dpo"] + parts["nll"], value_of(loss, batch, outputs))
    assert loss.weights == [1.0, 1.0]


def test_an_objective_of_ones_own() -> None:
    class Own(MultiObjectiveLoss):
        def compute_custom_loss(self, objective: str, batch: Any, model_outputs: Any) -> Any:
            if objective == "length":
                return model_outputs["next_token_logprobs"].square().mean()
            return super().compute_custom_loss(objective, batch, model_outputs)

    batch, outputs = usual(2)
    loss = Own({"objectives": ["nll", "length"], "weights": [1.0, 0.1]})
    expected = value_of(NLLLoss(), batch, outputs) + 0.1 * outputs["next_token_logprobs"].square().mean()
    torch.testing.assert_close(value_of(loss, batch, outputs), expected)
    assert loss.contract is MultiObjectiveLoss.contract


def test_metrics_are_kept_under_the_objective() -> None:
    class Own(MultiObjectiveLoss):
        def compute_sft_loss(self, batch: Any, model_outputs: Any) -> Any:
            return WithMetrics({"value": 2.0}).compute_loss(batch, model_outputs)

    result = Own().compute_loss(*usual())
    assert isinstance(result, tuple)
    assert result[1] == {"sft/seen": 3.0}
    assert isinstance(MultiObjectiveLoss().compute_loss(*usual()), Tensor)


NAME = "MultiObjectiveLoss: "
MEANT = "expected a list of names, at least one, each once"
REFUSED = [
    ({"objectives": []}, f"objectives=[]; {MEANT}"),
    ({"objectives": "dpo"}, f"objectives='dpo'; {MEANT}"),
    ({"objectives": None}, f"objectives=None; {MEANT}"),
    ({"settings": [1]}, "settings=[1]; expected a mapping such as {'dpo': {'beta': 0.5}}"),
    ({"objectives": ["dpo", "dpo"]}, f"objectives=['dpo', 'dpo']; {MEANT}"),
    (
        {"objectives": ["dpo", "nll", "sft"], "weights": [1.0, 1.0]},
        "2 weights for 3 losses; expected one weight for each",
    ),
    ({"weights": 1.0}, "weights=1.0; expected a list of numbers, one for each of 2 losses"),
    ({"weights": [1.0, math.inf]}, "weights holds inf; expected finite numbers"),
    ({"weights": [1.0, "2"]}, "weights holds '2'; expected finite numbers"),
    ({"weights": [0.0, 0.0]}, "every one of the weights is 0; there would be nothing to train on"),
    ({"settings": {"sfd": {}}}, "settings are given for 'sfd', which is not an objective; did you mean 'sft'?"),
    (
        {"objectives": ["dpoo"]},
        "unknown objective 'dpoo'; did you mean 'dpo'? Register a loss under that name, or define "
        "compute_custom_loss(self, objective, batch, model_outputs)",
    ),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_refused_at_construction(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        MultiObjectiveLoss(config)
    assert str(error.value) == NAME + message


def test_a_method_for_no_objective_says_so() -> None:
    with pytest.raises(NotImplementedError, match="'dpo' is not among the objectives 'sft'"):
        MultiObjectiveLoss({"objectives": ["sft"]}).compute_dpo_loss(*usual())


def test_contract_follows_the_parts() -> None:
    contract = MultiObjectiveLoss().contract
    assert (contract.family, contract.normalizer, contract.level) == ("composite", "global", "pair")
    assert contract.lower_bound == 0.0
    assert contract.options["weights"].reduces_to == {(1.0, 0.0): "dpo"}
    assert MultiObjectiveLoss({"weights": [1.0, -1.0]}).contract.lower_bound is None
    one = MultiObjectiveLoss({"objectives": ["dpo"], "weights": [-2.0]}).contract
    assert (one.upper_bound, one.level, one.direction["chosen_scores"]) == (0.0, "pair", +1)
    assert MultiObjectiveLoss({"objectives": ["nll", "infonce"]}).contract.coupled
    assert not MultiObjectiveLoss().contract.declares("coupled")


def test_own_contract_is_left_alone() -> None:
    class Own(MultiObjectiveLoss):
        contract = Contract(family="preference")

    assert Own().contract is Own.contract


def test_a_registered_loss_without_contract_leaves_the_facts_open() -> None:
    name = "tests_multi_objective_plain"

    @register(name)
    class Plain(torch.nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()

        def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
            return model_outputs["next_token_logprobs"].mean()

    try:
        loss = MultiObjectiveLoss({"objectives": ["dpo", name]})
        assert loss.contract.lower_bound is None
        assert isinstance(loss, LossFunction)
    finally:
        del registry.registry[name]


@pytest.mark.parametrize(
    ("levels", "level"),
    [
        (("token", "token"), "token"),
        (("token", "sequence"), None),
        (("token", "pair"), "pair"),
        (("token", None), None),
    ],
)
def test_level_of_a_sum(levels: tuple[str | None, ...], level: str | None) -> None:
    assert promises_of_sum([(1.0, Contract(level=word)) for word in levels]).get("level") == level
