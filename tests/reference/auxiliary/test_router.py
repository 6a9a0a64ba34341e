"""Load balance and z-loss of the routers of a mixture of experts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, registry
from tests.oracles import auxiliary
from tests.reference.agreement import assert_agrees
from tests.reference.cases import Tensors, case, value_and_gradient

BOTH = ("moe_load_balance", "router_z_loss")
CONFIGS: dict[str, list[dict[str, Any]]] = {
    "moe_load_balance": [{}, {"top_k": 1}, {"top_k": 4}, {"normalize_by_k": True}, {"coefficient": 0.3}],
    "router_z_loss": [{}, {"coefficient": 0.0}, {"coefficient": 0.3}],
}
RUNS = [(name, config) for name, configs in CONFIGS.items() for config in configs]


def router_case(seed: int, attention: bool = True, **kwargs: Any) -> tuple[Tensors, Tensors]:
    batch, _ = case(seed, width=4, **kwargs)
    g = torch.Generator().manual_seed(seed)
    if attention:
        batch["attention_mask"] = batch["token_mask"]
    return batch, {"router_logits": torch.randn(4, 4, 2, 4, generator=g, dtype=torch.float64)}


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_agrees_with_the_oracle(name: str, config: dict[str, Any], sample_mask: str | None, attention: bool) -> None:
    # The choice of experts is constant near a random case, so the gradient is that of the value.
    assert_agrees(name, getattr(auxiliary, name), config, *router_case(5, attention, sample_mask=sample_mask))
    for seed in range(100, 105):
        batch, outputs = router_case(seed, attention, sample_mask=sample_mask)
        assert_agrees(name, getattr(auxiliary, name), config, batch, outputs, gradient=False)


@pytest.mark.parametrize(("config", "expected"), [({}, 2), ({"top_k": 3}, 3), ({"normalize_by_k": True}, 1)])
@pytest.mark.parametrize("level", [0.0, 1e4])
def test_uniform_probabilities_give_top_k(config: dict[str, Any], expected: float, level: float) -> None:
    loss = registry.create("moe_load_balance", config)
    assert loss.compute_loss({}, {"router_logits": torch.full((2, 3, 2, 6), level)}) == pytest.approx(expected)


def test_from_even_to_collapsed_load() -> None:
    even = 50 * torch.eye(4).reshape(1, 4, 1, 4)
    collapsed = even[:, :1].expand(1, 4, 1, 4)
    loss = registry.create("moe_load_balance", {"top_k": 1})
    assert loss.compute_loss({}, {"router_logits": even}) == pytest.approx(1)
    assert loss.compute_loss({}, {"router_logits": collapsed}) == pytest.approx(4)


def test_only_the_probabilities_pass_gradient() -> None:
    logits = torch.tensor([[[[2.0, 1.0, 0.0]], [[0.0, 3.0, 1.0]]]], dtype=torch.float64)
    _, gradient = value_and_gradient("moe_load_balance", {}, {"router_logits": logits}, "router_logits")
    f = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64)  # experts 0 and 1, then 1 and 2
    p = logits.softmax(-1)
    torch.testing.assert_close(gradient, 3 * p * (f - (f * p).sum(-1, keepdim=True)) / 2)


def test_the_load_jumps_where_the_choice_changes() -> None:
    below, above = (torch.tensor([[[[1.0, x, 0.0]], [[1.0, 0.0, 0.2]]]]) for x in (0.999, 1.001))
    loss = registry.create("moe_load_balance", {"top_k": 1})
    low, high = (loss.compute_loss({}, {"router_logits": x}).item() for x in (above, below))
    assert high - low > 0.1
    tied = torch.tensor([[[[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.2]]]])
    assert loss.compute_loss({}, {"router_logits": tied}).item() == pytest.approx(high, abs=0.01)  # the first of equals


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("content", [math.nan, math.inf, -math.inf])
def test_padding_and_absent_rows_reach_nothing(name: str, content: float) -> None:
    batch, outputs = router_case(7, sample_mask="zeros")
    kept = (batch["attention_mask"] * batch["sample_mask"].unsqueeze(1)) != 0
    expected = registry.create(name).compute_loss(batch, outputs)
    outputs["router_logits"][~kept] = content
    value, gradient = value_and_gradient(name, batch, outputs, "router_logits")
    assert value == expected
    assert gradient[~kept].abs().sum() == 0
    assert torch.isfinite(gradient).all()
    value, gradient = value_and_gradient(name, batch | {"attention_mask": torch.zeros(4, 4)}, outputs, "router_logits")
    assert value == 0
    assert gradient.abs().sum() == 0


def test_z_loss_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 0.0], [math.log(3), 0.0]], [[100.0, 100.0], [-math.log(2), -math.log(2)]]]])
    expected = (math.log(2) ** 2 + math.log(4) ** 2 + (100 + math.log(2)) ** 2 + 0) / 4
    assert registry.create("router_z_loss").compute_loss({}, {"router_logits": logits}) == pytest.approx(expected)


def test_errors() -> None:
    with pytest.raises(ConfigError, match=r"top_k=1.5; expected a whole number"):
        registry.create("moe_load_balance", {"top_k": 1.5})
    with pytest.raises(ConfigError, match=r"top_k=0 is out of range; expected a number at least 1"):
        registry.create("moe_load_balance", {"top_k": 0})
    with pytest.raises(ValueError, match=r"router_logits has 1 experts; top_k=2 needs as many at least"):
        registry.create("moe_load_balance").compute_loss({}, {"router_logits": torch.zeros(1, 2, 1, 1)})
    one_layer = {"router_logits": torch.zeros(1, 2, 1, 4)}
    for name in BOTH:
        with pytest.raises(ConfigError, match=r"coefficient=-1 is out of range"):
            registry.create(name, {"coefficient": -1})
        with pytest.raises(ValueError, match=r"router_logits has shape \(1, 2, 3\); expected \(B, S, L, E\)"):
            registry.create(name).compute_loss({}, {"router_logits": torch.zeros(1, 2, 3)})
        with pytest.raises(ValueError, match=r"attention_mask has shape \(2,\); expected \(1, 2\)"):
            registry.create(name).compute_loss({"attention_mask": torch.ones(2)}, one_layer)


def test_every_expert_for_every_token_is_balanced_whatever_the_router_says() -> None:
    """top_k = E: the load is 1 everywhere, so the loss is E sum P = E, flat in the logits."""
    _, outputs = router_case(8)
    value, gradient = value_and_gradient(
        registry.create("moe_load_balance", {"top_k": 4}), {}, outputs, "router_logits"
    )
    assert value.item() == pytest.approx(4, rel=1e-12)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("name", BOTH)
def test_an_expert_switched_off_has_no_probability_and_hides_no_nan(name: str) -> None:
    """A logit of -inf, on a token that counts."""
    _, outputs = router_case(9)
    off = outputs["router_logits"].clone()
    off[..., 3] = -math.inf
    value, gradient = value_and_gradient(name, {}, {"router_logits": off}, "router_logits")
    without = value_and_gradient(name, {}, {"router_logits": off[..., :3]}, "router_logits")
    scale = 4 / 3 if name == "moe_load_balance" else 1  # the number of experts is a factor
    torch.testing.assert_close((value, gradient[..., :3]), (scale * without[0], scale * without[1]))
    assert gradient[..., 3].abs().sum() == 0


def test_the_z_loss_sees_the_common_level_that_probabilities_do_not() -> None:
    """lse moves by c: to 0, the least, where c = -lse; the load balance does not move."""
    _, outputs = router_case(10)
    z = outputs["router_logits"]
    centred = {"router_logits": z - z.logsumexp(-1, keepdim=True)}
    value, gradient = value_and_gradient("router_z_loss", {}, centred, "router_logits")
    assert value.item() < 1e-30
    assert gradient.abs().max() < 1e-15
    raised = {"router_logits": centred["router_logits"] + 3}
    assert value_and_gradient("router_z_loss", {}, raised, "router_logits")[0].item() == pytest.approx(9)
    still = [value_and_gradient("moe_load_balance", {}, x, "router_logits")[0] for x in (outputs, raised)]
    torch.testing.assert_close(*still)
