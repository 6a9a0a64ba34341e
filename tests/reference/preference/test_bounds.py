"""No input goes below the infimum of a formula or above its supremum, and each is approached or reached where it should be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import registry
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
