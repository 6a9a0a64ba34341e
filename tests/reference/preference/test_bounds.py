"""No input goes below the infimum of a formula or above its supremum, and each is approached or reached where it should be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import LossFunction, registry
from tests.reference.cases import value_and_gradient
from tests.reference.preference.answers import one_token
from tests.reference.preference.helpers import at, pairs

Config = dict[str, Any]
LP = "next_token_logprobs"
INF = math.inf
SPREADS = (0.1, 3.0, 40.0, 1e3)


def entropy(e: float) -> float:
    return -e * math.log(e) - (1 - e) * math.log(1 - e)


E = {"label_smoothing": 0.2}
BOUNDS: list[tuple[str, Config, float, float]] = [
    ("cdpo", E, entropy(0.2), INF),
    ("dpo", E, entropy(0.2), INF),
    ("aot", E, entropy(0.2), INF),
    ("aot_unpaired", E, entropy(0.2), INF),
    ("simpo", E, entropy(0.2), INF),
    ("exo_pair", E, 0.0, -math.log(0.2)),
    ("nca_pair", {}, 1.5 * math.log(3) - math.log(2), INF),
    ("apo_zero", {}, 0.0, 2.0),
    ("apo_down", {}, 0.0, 2.0),
    ("cal_dpo", {"beta": 1.0}, 0.0, INF),
    ("rpo_fwd_kl", {"beta": 1.0}, 0.0, INF),
    ("rpo_bwd_kl", {"beta": 1.0}, 0.0, INF),
    *((name, {"beta": 1.0}, 0.0, INF) for name in ("dpo", "dpo_norm", "hinge_dpo", "ipo", "ld_dpo", "r_dpo", "dpop")),
    *((name, {"beta": 1.0}, 0.0, INF) for name in ("fdpo_forward_kl", "fdpo_js", "fdpo_alpha", "bco_pair", "discopop")),
    *((name, {"beta": 1.0}, 0.0, INF) for name in ("sppo_hard", "odpo", "rpo_sq", "orpo", "alphapo", "cpo")),
    ("chi_po", {"reward_limit": 2.0}, math.log1p(math.exp(-4)), 4 + math.log1p(math.exp(-4))),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "config", "lowest", "highest"), BOUNDS, ids=str)
def test_pairs_stay_within(name: str, config: Config, lowest: float, highest: float, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(91)
    eps = torch.finfo(dtype).eps
    loss = registry.create(name, config)
    for spread in SPREADS:
        for h_w, h_l, gap in (torch.randn(25, 3, generator=g, dtype=torch.float64) * spread).tolist():
            batch, outputs = pairs([h_w], [h_l], p_w=-abs(h_w), p_l=-abs(h_l), gap=gap, dtype=dtype)
            value = value_and_gradient(loss, batch, outputs, LP)[0].item()
            # A divergence is a difference of cross entropies of order |x| (1 + |y|): it may round below 0 by so much.
            room = 8 * eps * (1 + abs(h_w - h_l) + abs(gap)) if "kl" in name or name == "exo_pair" else 4 * eps
            assert lowest - room <= value <= highest + room


@pytest.mark.parametrize("e", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("name", ["cdpo", "dpo", "aot", "aot_unpaired", "simpo"])
def test_a_search_finds_the_entropy_of_smoothed_labels_at_their_log_odds(name: str, e: float) -> None:
    loss = registry.create(name, {"label_smoothing": e, "beta": 1.0, **({"gamma": 0.0} if name == "simpo" else {})})
    low, high = -20.0, 20.0
    for _ in range(100):  # convex in the margin
        left, right = low + (high - low) / 3, high - (high - low) / 3
        of_left, of_right = (search_point(loss, margin) for margin in (left, right))
        low, high = (low, right) if of_left < of_right else (left, high)
    assert low == pytest.approx(math.log((1 - e) / e), abs=1e-6)
    assert search_point(loss, low) == pytest.approx(entropy(e), rel=1e-12)


def search_point(loss: LossFunction, margin: float) -> float:
    """Return the loss of one pair whose answers are of one token, ``margin`` apart from the reference's, and by themselves."""
    batch, outputs = one_token([margin, 0.0])
    reference = torch.full_like(batch["reference_policy_logprobs"], -30.0)
    lp = reference[:, 1:] + torch.tensor([[margin], [0.0]], dtype=torch.float64)
    return float(loss.compute_loss(batch | {"reference_policy_logprobs": reference}, {**outputs, LP: lp}))


def test_a_search_comes_as_near_to_the_infimum_of_nca_as_the_rejected_answer_is_unlikely() -> None:
    loss = registry.create("nca_pair", {"beta": 1.0})
    least = 1.5 * math.log(3) - math.log(2)
    for h_l in (-5.0, -20.0, -100.0):
        found = min(float(loss.compute_loss(*one_token([h_w / 1000, h_l]))) for h_w in range(600, 800))
        assert least < found + 1e-15 <= least + math.exp(h_l) + 1e-6


@pytest.mark.parametrize("name", ["cdpo", "nca_pair"])
def test_contracts_promise_no_more_than_0_for_nothing_left_costs_nothing(name: str) -> None:
    """The infimum of a *pair* is higher, but a batch whose pairs are all masked is legal, and so is a share of a batch."""
    batch, outputs = one_token([0.4, 0.1])
    nothing = batch | {"sample_mask": torch.zeros(2, dtype=torch.float64)}
    assert float(registry.create(name).compute_loss(nothing, outputs)) == 0
    assert registry.create(name).contract.lower_bound == 0


def test_cal_dpo_is_above_0_at_its_least() -> None:
    """On the line h_w = -h_l the minimum solves sigma(-2 h) = 2 (h - 1 / (2 beta)), which leaves both terms positive."""
    low, high = 0.5, 2.0
    for _ in range(60):
        h = (low + high) / 2
        low, high = (low, h) if 2 * (h - 0.5) > 1 / (1 + math.exp(2 * h)) else (h, high)
    value, gradient = at("cal_dpo", h, -h, {"beta": 1.0})
    assert gradient.abs().max() < 1e-14
    assert value > 0.2
    for step in (-0.01, 0.01):
        assert at("cal_dpo", h + step, -h, {"beta": 1.0})[0] > value < at("cal_dpo", h, -h + step, {"beta": 1.0})[0]


@pytest.mark.parametrize("variant", ["infonca", "nca"])
def test_groups_stay_above_the_entropy_of_their_target(variant: str) -> None:
    g = torch.Generator().manual_seed(93)
    loss = registry.create("infonca", {"group_size": 4, "variant": variant, "alpha": 0.5})
    for spread in SPREADS:
        for _ in range(30):
            h, rewards = torch.randn(2, 4, generator=g, dtype=torch.float64) * torch.tensor([[spread], [1.0]])
            batch, outputs = one_token(h.tolist(), rewards=rewards)
            target = (rewards / 0.5).softmax(0)
            # Each r_k of NCA is a coin of weight target_k + 1/K that should come up with target_k of it.
            coin, total = target / (target + 0.25), target + 0.25
            least = {
                "infonca": -(target * target.log()).sum(),
                "nca": (total * -(coin * coin.log() + (1 - coin) * (1 - coin).log())).sum(),
            }[variant]
            assert value_and_gradient(loss, batch, outputs, LP)[0] >= least - 1e-14
    best = torch.logit(coin) / 0.1 if variant == "nca" else (rewards / 0.5) / 0.1
    batch, outputs = one_token(best.tolist(), rewards=rewards)
    value, gradient = value_and_gradient(loss, batch, outputs, LP)
    assert value.item() == pytest.approx(least.item(), rel=1e-12)
    assert gradient.abs().max() < 1e-14


@pytest.mark.parametrize("name", ["plackett_luce_dpo", "lipo", "rrhf"])
def test_rankings_cost_nothing_less_than_0(name: str) -> None:
    g = torch.Generator().manual_seed(95)
    loss = registry.create(name, {"group_size": 3})
    for spread in SPREADS:
        for _ in range(30):
            h, rewards = torch.randn(2, 3, generator=g, dtype=torch.float64) * spread
            batch, outputs = one_token(h.tolist(), rewards=rewards)
            outputs[LP] = outputs[LP] - h.abs().unsqueeze(1)
            assert value_and_gradient(loss, batch, outputs, LP)[0] >= 0


def test_nash_md_has_no_floor() -> None:
    """An answer that always loses may be made ever less likely, as long as the reference follows."""
    assert registry.create("nash_md").contract.lower_bound == -INF
    for p in (-10.0, -1e3, -1e5):
        batch, outputs = one_token([0.0, 0.0], p=p, preference_probability=[0.0, 0.0])
        assert value_and_gradient("nash_md", batch, outputs, LP)[0].item() == pytest.approx(p / 2)
