"""Reward losses: their bounds, slopes in closed form, what they do not read, and scores far apart in float32."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference import registry
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.reward.test_reward_against_oracles import ORACLES, reward_case

PAIRS = ("bradley_terry", "bt_margin", "bt_centered", "logexp_pairwise", "bt_soft_label")
RANKING = ("all_pairs_k", "plackett_luce_rm")


def scored(name: str, r: list[float], dtype: torch.dtype = torch.float64, **constants: Any) -> tuple[float, Tensor]:
    """Return the loss of these scores and its gradient; constants as lists, ``group_size`` as a setting."""
    config = {"group_size": constants.pop("group_size")} if "group_size" in constants else None
    batch = {key: torch.tensor(x, dtype=dtype) for key, x in constants.items()}
    outputs = {"rewards": torch.tensor(r, dtype=dtype)}
    value, gradient = value_and_gradient(registry.create(name, config), batch, outputs, "rewards")
    return value.item(), gradient


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("d", [-30.0, -1.5, 0.0, 0.7, 30.0])
def test_slopes_of_a_pair(d: float) -> None:
    expected = {
        "bradley_terry": -s(-d),
        "logexp_pairwise": -s(-d),
        "bt_margin": -s(0.4 - d),
        "bt_soft_label": s(d) - 0.3,
    }
    for name, slope in expected.items():
        _, gradient = scored(name, [d + 2, 2.0], margin=[0.4, 9.0], preference_probability=[0.3, 9.0])
        assert gradient.tolist() == pytest.approx([slope, -slope], rel=1e-13, abs=2e-16)
    _, gradient = scored("bt_centered", [d + 2, 2.0])
    centre = 2 * 0.01 * (d + 4)
    assert gradient.tolist() == pytest.approx([centre - s(-d), centre + s(-d)], rel=1e-13, abs=2e-16)


@pytest.mark.parametrize("r", [-40.0, -1.0, 0.0, 2.0, 40.0])
@pytest.mark.parametrize("y", [0.0, 0.3, 1.0])
def test_slopes_of_a_row(r: float, y: float) -> None:
    value, gradient = scored("orm_bce", [r], labels=[y])
    assert gradient.item() == pytest.approx(s(r) - y, rel=1e-13, abs=2e-16)
    if r == 0:
        assert value == pytest.approx(math.log(2))
    for score in (y, r):  # exactly 0 where the score is met
        value, gradient = scored("reward_regression", [r], scores=[score])
        assert (value, gradient.item()) == ((r - score) ** 2, 2 * (r - score))


@pytest.mark.parametrize("q", [0.1, 0.5, 0.8])
def test_a_soft_label_costs_at_least_its_entropy(q: float) -> None:
    least = -q * math.log(q) - (1 - q) * math.log(1 - q)
    g = torch.Generator().manual_seed(51)
    for spread in (0.1, 2.0, 50.0):
        for d in (torch.randn(40, generator=g) * spread).tolist():
            value, _ = scored("bt_soft_label", [d, 0.0], preference_probability=[q, 0.0])
            assert value >= least - 1e-15
            assert scored("orm_bce", [d], labels=[q])[0] == pytest.approx(value, rel=1e-14)  # one coin, two forms
    assert scored("bt_soft_label", [3.0, 3.0], preference_probability=[q, 0.0])[0] == pytest.approx(math.log(2))


@pytest.mark.parametrize("margin", [-2.0, 0.0, 5.0])
def test_a_margin_is_a_head_start_of_the_rejected_answer(margin: float) -> None:
    for d in (-3.0, 0.0, 4.0):
        value, gradient = scored("bt_margin", [d, 0.0], margin=[margin, 0.0])
        expected, slope = scored("bradley_terry", [d, margin])
        assert value == pytest.approx(expected, rel=1e-14)
        torch.testing.assert_close(gradient, slope)
        # OpenRLHF's log-exp loss takes a margin and drops it; this one has none.
        assert scored("logexp_pairwise", [d, 0.0], margin=[margin, 0.0])[0] == scored("logexp_pairwise", [d, 0.0])[0]


@pytest.mark.parametrize("c", [-2.0, 3.0])
@pytest.mark.parametrize("name", [*PAIRS, *RANKING])
def test_a_common_shift_is_felt_by_centring_alone(name: str, c: float) -> None:
    batch, outputs = reward_case(name, 53, sample_mask="floats", counts=True)
    group = {"group_size": 4} if name in RANKING else {}
    per_group = torch.tensor([c, -c, 0.5] if group else [c, -c, 0.5, 1.0, 7.0, c], dtype=torch.float64)
    moved = {"rewards": outputs["rewards"] + per_group.repeat_interleave(12 // len(per_group))}
    loss = registry.create(name, group)
    value, gradient = value_and_gradient(loss, batch, outputs, "rewards")
    got, got_gradient = value_and_gradient(loss, batch, moved, "rewards")
    if name == "bt_centered":
        assert got.item() != pytest.approx(value.item(), rel=1e-3)
    else:
        torch.testing.assert_close((got, got_gradient), (value, gradient), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("K", [2, 3, 5])
def test_all_pairs_are_the_mean_of_bradley_terry_over_them(K: int) -> None:
    g = torch.Generator().manual_seed(55 + K)
    r, true = torch.randn(2, K, generator=g, dtype=torch.float64)
    pairs = [(i, j) for i in range(K) for j in range(K) if true[i] > true[j]]
    outputs = torch.stack([r[list(pair)] for pair in pairs]).flatten()
    expected, slopes = value_and_gradient("bradley_terry", {}, {"rewards": outputs}, "rewards")
    value, gradient = scored("all_pairs_k", r.tolist(), rewards=true.tolist(), group_size=K)
    assert value == pytest.approx(expected.item(), rel=1e-14)
    summed = torch.zeros(K, dtype=torch.float64).index_add(0, torch.tensor(pairs).flatten(), slopes)
    torch.testing.assert_close(gradient, summed)


@pytest.mark.parametrize("gap", [89.0, 1e4, 1e30])
@pytest.mark.parametrize("name", RANKING)
def test_scores_far_apart_in_float32(name: str, gap: float) -> None:
    for true, lost in (([2.0, 1.0, 0.0], 0.0), ([0.0, 1.0, 2.0], 4 * gap / 3 if name == "all_pairs_k" else 3 * gap)):
        value, gradient = scored(name, [gap, 0.0, -gap], torch.float32, rewards=true, group_size=3)
        assert value == pytest.approx(lost, rel=1e-6, abs=1e-30)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("r", [-1e4, -89.0, 89.0, 1e4])
def test_a_sure_verdict_in_float32(r: float) -> None:
    for y in (0.0, 1.0):
        value, gradient = scored("orm_bce", [r], torch.float32, labels=[y])
        assert value == pytest.approx(max(r * (1 - 2 * y), 0.0), rel=1e-6, abs=1e-30)
        assert gradient.isfinite().all()
        keeps, _ = scored("orm_bce", [40.0 if y else -40.0], torch.float32, labels=[y])
        assert keeps == pytest.approx(math.exp(-40), rel=1e-5, abs=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*ORACLES, "bradley_terry"])
def test_nothing_costs_less_than_0(name: str, dtype: torch.dtype) -> None:
    for seed in range(15):
        batch, outputs = reward_case(name, seed, dtype=dtype)
        batch["margin"] = batch["margin"] * 10
        for scale in (0.1, 10.0, 1e3):
            value = registry.create(name).compute_loss(batch, {k: x * scale for k, x in outputs.items()})
            assert value >= 0


def steps(logits: Tensor) -> Tensors:
    rows, width, C = logits.shape
    labels = torch.arange(rows * width).reshape(rows, width) % C
    return {"step_labels": labels, "token_mask": torch.ones(rows, width)}


def test_process_rewards_are_the_cross_entropy_of_torch() -> None:
    g = torch.Generator().manual_seed(57)
    logits = torch.randn(2, 5, 2, generator=g, dtype=torch.float64)
    batch = steps(logits)
    batch["step_labels"][0, 2:4] = -100
    expected = F.cross_entropy(logits[:, 1:].flatten(0, 1), batch["step_labels"][:, 1:].flatten(), ignore_index=-100)
    value, _ = value_and_gradient("prm_token_ce", batch, {"logits": logits}, "logits")
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
    uniform = registry.create("prm_token_ce").compute_loss(batch, {"logits": torch.full((2, 5, 2), 4.0)})
    assert uniform.item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("far", [1e4, math.inf])
def test_process_rewards_of_a_certain_class(far: float) -> None:
    """-inf at a class nobody labels is a class that cannot be; at the label itself the loss is infinite, or as large."""
    batch = {"step_labels": torch.tensor([[0, 1]]), "token_mask": torch.ones(1, 2)}
    for label, value in ((1, 0.0), (0, far)):
        batch["step_labels"][0, 1] = label
        logits = torch.tensor([[[0.0, 0.0], [-far, 0.0]]])
        got, gradient = value_and_gradient("prm_token_ce", batch, {"logits": logits}, "logits")
        assert got.item() == value
        if value < math.inf:
            assert gradient.isfinite().all()


INF = math.inf


@pytest.mark.parametrize(("name", "constants"), [
    *((name, {}) for name in ("bradley_terry", "logexp_pairwise")),
    ("bt_margin", {"margin": [0.5, 0.0]}),
    ("bt_soft_label", {"preference_probability": [1.0, 0.0]}),
    ("bt_soft_label", {"preference_probability": [0.0, 0.0]}),
    ("orm_bce", {"labels": [1.0, 0.0]}),
    *((name, {"rewards": [1.0, 0.0], "group_size": 2}) for name in RANKING),
], ids=str)  # fmt: skip
def test_an_infinite_score_that_is_right_costs_nothing(name: str, constants: dict[str, Any]) -> None:
    """As half precision makes them: the loss is that of a score far off, not 0 times inf, nor inf - inf."""
    for r_w, r_l in ((0.0, -INF), (-INF, 0.0), (INF, 0.0), (0.0, INF)):
        if name == "plackett_luce_rm" and INF in (r_w, r_l):
            continue  # its ratio to the others has no limit that a log-sum-exp could take
        value, gradient = scored(name, [r_w, r_l], **constants)
        expected, slope = scored(name, [min(max(x, -1e9), 1e9) for x in (r_w, r_l)], **constants)
        if expected < 1e6:
            assert value == pytest.approx(expected)
            torch.testing.assert_close(gradient, slope)
        else:
            assert value == INF


@pytest.mark.parametrize("name", RANKING)
def test_the_worst_of_three_may_be_impossible(name: str) -> None:
    value, gradient = scored(name, [0.3, -INF, 1.0], rewards=[1.0, 0.0, 2.0], group_size=3)
    expected, slope = scored(name, [0.3, -1e9, 1.0], rewards=[1.0, 0.0, 2.0], group_size=3)
    assert value == pytest.approx(expected, rel=1e-14)
    torch.testing.assert_close(gradient, slope)
