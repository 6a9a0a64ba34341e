from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loss_reference import ComposedLoss, ConfigError, Contract, DPOLoss, LossFunction, create_loss_function
from tests.oracles import composite as oracle
from tests.reference.composite.helpers import (
    NotANumber,
    Vandal,
    WithMetrics,
    gradient_of,
    losses,
    oracle_values,
    usual,
    value_of,
)


def composed(*entries: dict[str, Any]) -> ComposedLoss:
    return ComposedLoss({"loss_functions": list(entries)})


class Learned(LossFunction):
    """A loss with a parameter of its own."""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
        return self.scale * model_outputs["next_token_logprobs"].mean()


def containing(*parts: LossFunction, weights: list[float] | None = None) -> ComposedLoss:
    """A composition whose losses a subclass would have set."""
    loss = ComposedLoss()
    loss.loss_functions = list(parts)  # type: ignore[assignment]
    loss.weights = weights or [1.0] * len(parts)
    return loss


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0), (1, 0), (1.0, -0.5)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_oracle(seed: int, weights: tuple[float, float]) -> None:
    batch, outputs = usual(seed, sample_mask="floats")
    loss = composed({"type": "dpo", "weight": weights[0]}, {"type": "nll", "weight": weights[1]})
    expected = oracle.weighted_sum(oracle_values(batch, outputs), weights)
    assert value_of(loss, batch, outputs).item() == pytest.approx(expected, rel=1e-12)


def test_nesting_multiplies_weights() -> None:
    batch, outputs = usual(1)
    inner = {"type": "composed", "weight": 0.5, "loss_functions": [{"type": "nll", "weight": 4.0}, {"type": "dpo"}]}
    nested = composed({"type": "dpo", "weight": 3.0, "beta": 0.5}, inner)
    flat = composed(
        {"type": "dpo", "weight": 3.0, "beta": 0.5}, {"type": "nll", "weight": 2.0}, {"type": "dpo", "weight": 0.5}
    )
    torch.testing.assert_close(value_of(nested, batch, outputs), value_of(flat, batch, outputs), rtol=1e-14, atol=0)
    torch.testing.assert_close(
        gradient_of(nested, batch, outputs), gradient_of(flat, batch, outputs), rtol=1e-13, atol=0
    )
    assert list(nested.components(batch, outputs)) == ["dpo", "composed/nll", "composed/dpo"]
    total = torch.stack([*nested.components(batch, outputs).values()]).sum()
    torch.testing.assert_close(total, value_of(nested, batch, outputs))


def test_one_loss_of_weight_1_is_that_loss() -> None:
    batch, outputs = usual(1)
    assert torch.equal(value_of(composed({"type": "dpo"}), batch, outputs), value_of(DPOLoss(), batch, outputs))


def test_names() -> None:
    loss = composed({"type": "dpo"}, {"type": "dpo", "beta": 1.0}, {"type": "nll", "name": "dpo_2"}, {"type": "dpo"})
    assert loss.component_names() == ["dpo", "dpo_3", "dpo_2", "dpo_4"]


def test_metrics_are_kept_under_the_name() -> None:
    loss = containing(DPOLoss(), WithMetrics({"value": 1.0}), containing(WithMetrics({"value": 1.0})))
    result = loss.compute_loss(*usual())
    assert isinstance(result, tuple)
    assert result[1] == {"WithMetrics/seen": 3.0, "ComposedLoss/WithMetrics/seen": 3.0}
    assert isinstance(composed({"type": "dpo"}).compute_loss(*usual()), Tensor)


def test_weight_0_is_not_evaluated() -> None:
    batch, outputs = usual(1)
    loss = containing(DPOLoss(), NotANumber(), weights=[1.0, 0.0])
    assert torch.equal(value_of(loss, batch, outputs), value_of(DPOLoss(), batch, outputs))


def test_the_batch_is_read_only_to_the_parts() -> None:
    batch, outputs = usual()
    with pytest.raises(TypeError, match="does not support item assignment"):
        containing(Vandal()).compute_loss(batch, outputs)
    assert batch["token_mask"] is not None


def test_the_view_reads_like_what_it_shows() -> None:
    seen: list[Any] = []

    class Reader(LossFunction):
        def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
            seen.extend([len(batch), "labels" in batch, batch.get("labels"), sorted(batch) == sorted({**batch})])
            with pytest.raises(AttributeError, match="there is no 'logits'; there are: "):
                _ = model_outputs.logits
            result: Tensor = model_outputs.next_token_logprobs.sum()
            return result

    batch, outputs = usual()
    containing(Reader()).compute_loss(batch, outputs)
    assert seen == [len(batch), False, None, True]


def test_parameters_of_the_losses_are_seen_and_trained() -> None:
    batch, outputs = usual()
    loss = containing(Learned(), DPOLoss())
    assert [name for name, _ in loss.named_parameters()] == ["loss_functions.0.scale"]
    result = loss.compute_loss(batch, outputs)
    assert isinstance(result, Tensor)
    loss.backward(result)
    (parameter,) = loss.parameters()
    torch.testing.assert_close(parameter.grad, outputs["next_token_logprobs"].mean())


def test_the_guides_subclass_works() -> None:
    class GuideComposedLoss(ComposedLoss):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.loss_functions = []  # type: ignore[assignment]
            self.weights = []
            for loss_config in config.get("loss_functions", []):
                self.loss_functions.append(self.create_loss_function(loss_config))
                self.weights.append(loss_config.get("weight", 1.0))

    batch, outputs = usual()
    entries = [{"type": "dpo", "weight": 2.0}, {"type": "sft"}]
    guide, ours = GuideComposedLoss({"loss_functions": entries}), composed(*entries)
    assert torch.equal(value_of(guide, batch, outputs), value_of(ours, batch, outputs))


def test_create_loss_function_can_be_replaced() -> None:
    class Own(ComposedLoss):
        def create_loss_function(self, loss_config: Mapping[str, Any]) -> LossFunction:
            return losses(loss_config["value"])[0]

    loss = Own({"loss_functions": [{"value": 2.0, "weight": 3.0}, {"value": 1.0}]})
    assert value_of(loss, *usual()).item() == pytest.approx(7.0)
    assert loss.component_names() == ["loss", "loss_2"]
    assert loss.contract is ComposedLoss.contract


def test_copies_and_compiles_alike() -> None:
    batch, outputs = usual()
    loss = composed({"type": "dpo"}, {"type": "nll", "weight": 0.5})
    expected = value_of(loss, batch, outputs)
    for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(value_of(copied, batch, outputs), expected)
        assert copied.contract == loss.contract
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    assert torch.equal(compiled(batch, outputs), expected)


cyclic: dict[str, Any] = {"type": "composed"}
cyclic["loss_functions"] = [cyclic]

REFUSED: list[tuple[Any, str]] = [
    ("dpo", "loss_functions='dpo'; expected a list of configs such as [{'type': 'dpo'}]"),
    ({"type": "dpo"}, "loss_functions={'type': 'dpo'}; expected a list of configs such as [{'type': 'dpo'}]"),
    (["dpo"], "loss_functions holds 'dpo'; expected a config such as {'type': 'dpo'}"),
    ([{"beta": 0.1}], "the entry {'beta': 0.1} has no 'type'"),
    ([{"type": "dpo", "weight": "1"}], "weights holds '1'; expected finite numbers"),
    ([{"type": "dpo", "weight": 0}], "every one of the weights is 0; there would be nothing to train on"),
    (
        [{"type": "dpo", "name": "a"}, {"type": "nll", "name": "a"}],
        "the name 'a' is given to more than one of the loss_functions",
    ),
    ([cyclic], "loss_functions is nested deeper than 8 levels; does the config contain itself?"),
]


@pytest.mark.parametrize(("entries", "message"), REFUSED)
def test_refused_at_construction(entries: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        ComposedLoss({"loss_functions": entries})
    assert str(error.value) == f"ComposedLoss: {message}"


def test_refused_by_the_parts() -> None:
    with pytest.raises(ValueError, match="Unknown loss function: 'dpoo'; did you mean 'dpo'\\? Registered: "):
        composed({"type": "dpoo"})
    with pytest.raises(ConfigError, match="DPOLoss: unknown config key 'betta'"):
        composed({"type": "dpo", "betta": 1.0})
    with pytest.raises(ConfigError) as error:
        ComposedLoss({"loss_function": []})
    assert str(error.value) == (
        "ComposedLoss: unknown config key 'loss_function'; expected loss_functions; did you mean 'loss_functions'?"
    )


def test_nothing_to_add_up() -> None:
    with pytest.raises(ValueError, match="nothing to add up: there are no parts, or every weight is 0"):
        ComposedLoss().compute_loss(*usual())
    with pytest.raises(ValueError, match="zip"):
        containing(DPOLoss(), weights=[1.0, 2.0]).compute_loss(*usual())


def test_contract_follows_the_parts() -> None:
    contract = composed({"type": "dpo", "weight": 2.0}, {"type": "dpo", "beta": 1.0}).contract
    assert (contract.family, contract.level, contract.normalizer) == ("composite", "pair", "global")
    assert contract.lower_bound == 0.0
    assert contract.direction == DPOLoss.contract.direction
    assert composed({"type": "dpo"}, {"type": "ppo_clip"}).contract.lower_bound == -math.inf
    assert composed({"type": "adaptive"}).contract.surrogate_gradient

    class Own(ComposedLoss):
        contract = Contract(family="preference")

    assert Own({"loss_functions": [{"type": "dpo"}]}).contract is Own.contract
    assert type(create_loss_function({"type": "composed", "loss_functions": [{"type": "dpo"}]})) is ComposedLoss
