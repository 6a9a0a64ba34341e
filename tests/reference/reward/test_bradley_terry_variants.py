"""Bradley-Terry with a margin, centred, as log-exp and with soft labels."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import ConfigError, registry
from tests.reference.cases import value_and_gradient

PAIR_LOSSES = ("bradley_terry", "bt_margin", "bt_centered", "logexp_pairwise", "bt_soft_label")


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def pair(
    name: str, r_w: float, r_l: float, config: dict[str, float] | None = None, **constants: list[float]
) -> tuple[float, list[float]]:
    """Return the loss of one pair, and its gradient with respect to both scores, in float32."""
    batch = {"margin": [0.0, 0.0], "preference_probability": [1.0, 1.0], **constants}
    outputs = {"rewards": torch.tensor([r_w, r_l])}
    tensors = {key: torch.tensor(x) for key, x in batch.items()}
    value, gradient = value_and_gradient(registry.create(name, config), tensors, outputs, "rewards")
    return value.item(), gradient.tolist()


@pytest.mark.parametrize("d", [-1e4, -100.0, -89.0, -1.0, 0.0, 2.0, 40.0, 100.0])
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_each_has_bradley_terry_as_a_special_case(name: str, d: float) -> None:
    config = {"center_coefficient": 0.0} if name == "bt_centered" else None
    value, gradient = pair(name, d, 0.0, config)
    sigma = 1 / (1 + math.exp(d)) if d < 700 else 0.0
    assert value == pytest.approx(-d if d < -88 else softplus(-d), rel=1e-6, abs=1e-30)
    assert gradient == pytest.approx([-sigma, sigma], rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("margin", [-1.0, 0.0, 3.0])
def test_margin(margin: float) -> None:
    assert pair("bt_margin", 5.0, 5.0, margin=[margin, math.nan])[0] == pytest.approx(softplus(margin))
    assert pair("bt_margin", 5.0 + margin, 5.0, margin=[margin, math.inf])[0] == pytest.approx(math.log(2))


def test_centering_fixes_the_level() -> None:
    assert pair("bt_centered", 0.0, 0.0)[0] == pytest.approx(math.log(2))
    value, gradient = pair("bt_centered", 3.0, 3.0, {"center_coefficient": 0.5})
    assert value == pytest.approx(math.log(2) + 0.5 * 36)
    assert gradient == pytest.approx([-0.5 + 6, 0.5 + 6])
    for name in ("bt_margin", "logexp_pairwise", "bt_soft_label"):
        assert pair(name, 3.5, 2.0)[0] == pytest.approx(pair(name, 1.5, 0.0)[0], rel=1e-6)


@pytest.mark.parametrize("q", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_soft_label(q: float) -> None:
    constants = {"preference_probability": [q, math.nan]}
    value, gradient = pair("bt_soft_label", 1.5, 0.0, **constants)
    sigma = 1 / (1 + math.exp(-1.5))
    assert value == pytest.approx(q * softplus(-1.5) + (1 - q) * softplus(1.5))
    assert gradient == pytest.approx([sigma - q, q - sigma])
    swapped = pair("bt_soft_label", 0.0, 1.5, preference_probability=[1 - q, 0.0])[0]
    assert swapped == pytest.approx(value, rel=1e-6)
    if 0 < q < 1:
        entropy, flat = pair("bt_soft_label", math.log(q / (1 - q)), 0.0, **constants)
        assert entropy == pytest.approx(-q * math.log(q) - (1 - q) * math.log(1 - q), rel=1e-6)
        assert flat == pytest.approx([0, 0], abs=1e-7)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_pairs_and_shapes(name: str) -> None:
    batch = {"margin": torch.zeros(3), "preference_probability": torch.zeros(3)}
    with pytest.raises(ValueError, match="rewards has 3 rows; pairs are interleaved"):
        registry.create(name).compute_loss(batch, {"rewards": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"rewards has shape \(4, 1\); expected \(B,\)"):
        registry.create(name).compute_loss({}, {"rewards": torch.zeros(4, 1)})


@pytest.mark.parametrize(("name", "field"), [("bt_margin", "margin"), ("bt_soft_label", "preference_probability")])
def test_constants(name: str, field: str) -> None:
    with pytest.raises(ValueError, match=rf"{field} has shape \(2,\); expected \(4,\)"):
        registry.create(name).compute_loss({field: torch.zeros(2)}, {"rewards": torch.zeros(4)})
    constant = torch.full((2,), 0.5, requires_grad=True)
    rewards = torch.zeros(2, requires_grad=True)
    registry.create(name).compute_loss({field: constant}, {"rewards": rewards}).backward()
    assert constant.grad is None
    with pytest.raises(KeyError, match=field):
        registry.create(name).compute_loss({}, {"rewards": rewards})


def test_config_errors() -> None:
    with pytest.raises(ConfigError, match="center_coefficient=-1 is out of range; expected a number at least 0"):
        registry.create("bt_centered", {"center_coefficient": -1})
    for name in ("bt_margin", "logexp_pairwise", "bt_soft_label", "reward_regression", "orm_bce", "prm_token_ce"):
        with pytest.raises(ConfigError, match="unknown config key 'beta'; expected no keys at all"):
            registry.create(name, {"beta": 1.0})
