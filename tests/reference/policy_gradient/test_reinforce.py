"""REINFORCE, the forced ratio of 1, and the losses that weight REINFORCE: CISPO and VESPO."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import CISPOLoss, ConfigError, OnPolicyLoss, PPOClipLoss, ReinforceLoss, VESPOLoss
from loss_reference.policy_gradient.cispo import clipped_weight
from loss_reference.policy_gradient.vespo import folded_log_ratio, vespo_weight
from tests.reference.cases import case, value_and_gradient

FIELD = "next_token_logprobs"
LP = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], dtype=torch.float64)
RHO = torch.tensor([[1.5, 1.0], [0.5, 0.9]], dtype=torch.float64)
A = torch.tensor([[2.0, 1.0], [-1.0, 4.0]], dtype=torch.float64)
OUTPUTS = {FIELD: LP}
BATCH = {
    "token_mask": torch.tensor([[1.0, 1, 1], [0, 1, 0]]),
    "prev_logprobs": torch.cat([torch.full((2, 1), math.nan), LP - RHO.log()], dim=1),
    "advantages": torch.cat([torch.full((2, 1), math.nan), A], dim=1),
}
MASK = torch.tensor([[1.0, 1], [1, 0]], dtype=torch.float64)


def test_reinforce_by_hand() -> None:
    value, gradient = value_and_gradient(ReinforceLoss(), BATCH, OUTPUTS, FIELD)
    assert value.item() == pytest.approx((2 + 2 - 0.5) / 3)
    torch.testing.assert_close(gradient, -A * MASK / 3)
    value, gradient = value_and_gradient(ReinforceLoss({"aggregation": "seq_mean_token_sum"}), BATCH, OUTPUTS, FIELD)
    assert value.item() == pytest.approx((4 - 0.5) / 2)
    torch.testing.assert_close(gradient, -A * MASK / 2)


def test_on_policy_has_the_gradient_of_reinforce_and_the_value_of_ppo_at_one() -> None:
    batch, outputs = case(1, sample_mask="floats", counts=True)
    del batch["prev_logprobs"]
    value, gradient = value_and_gradient(OnPolicyLoss(), batch, outputs, FIELD)
    torch.testing.assert_close(gradient, value_and_gradient(ReinforceLoss(), batch, outputs, FIELD)[1])
    prev = torch.cat([torch.zeros(4, 1), outputs[FIELD]], dim=1)
    torch.testing.assert_close(value, PPOClipLoss().compute_loss(batch | {"prev_logprobs": prev}, outputs))


def test_cispo_by_hand() -> None:
    value, gradient = value_and_gradient(CISPOLoss(), BATCH, OUTPUTS, FIELD)
    assert value.item() == pytest.approx((1.2 * 2 + 2 - 0.8 * 0.5) / 3)
    torch.testing.assert_close(gradient, torch.tensor([[-2.4, -1], [0.8, 0]]).double() / 3)


@pytest.mark.parametrize(
    ("bound", "clip_max", "expected"),
    [
        ("relative", 0.2, (1.2, 1.0, 0.8)),
        ("absolute", 0.2, (0.2, 0.2, 0.2)),
        ("absolute", 1.25, (1.25, 1.0, 0.5)),
        ("absolute", 5.0, (1.5, 1.0, 0.5)),
        ("upper", 0.272, (1.272, 1.0, 0.5)),
    ],
)
def test_cispo_by_the_bound_of_each_library(bound: str, clip_max: float, expected: tuple[float, float, float]) -> None:
    loss = CISPOLoss({"weight_bound": bound, "ratio_clip_max": clip_max})
    value, gradient = value_and_gradient(loss, BATCH, OUTPUTS, FIELD)
    w = torch.tensor([[expected[0], expected[1]], [expected[2], 0]], dtype=torch.float64)
    torch.testing.assert_close(gradient, -w * A / 3)
    torch.testing.assert_close(value, (-w * A * LP).sum() / 3)


def test_cispo_keeps_the_gradient_that_ppo_drops() -> None:
    rho = torch.tensor([0.1, 5.0], dtype=torch.float64)
    assert clipped_weight(rho, 0.2, 0.3).tolist() == pytest.approx([0.8, 1.3])
    assert clipped_weight(rho, 1.0, 5.0).tolist() == pytest.approx([0.1, 5.0])
    assert clipped_weight(rho, 0.2, 2.0, "absolute").tolist() == pytest.approx([0.1, 2.0])
    assert clipped_weight(rho, 0.2, 2.0, "upper").tolist() == pytest.approx([0.1, 3.0])
    _, gradient = value_and_gradient(CISPOLoss(), *case(2), FIELD)
    batch, _ = case(2)
    trained = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None] != 0
    assert (gradient != 0).equal(trained)


@pytest.mark.parametrize(
    "loss", [CISPOLoss(), CISPOLoss({"weight_bound": "absolute", "ratio_clip_max": 1.0}), VESPOLoss()]
)
def test_on_policy_they_are_reinforce(loss: CISPOLoss) -> None:
    batch, outputs = case(3, sample_mask="floats")
    outputs[FIELD] = batch["prev_logprobs"][:, 1:]
    got, expected = (value_and_gradient(each, batch, outputs, FIELD) for each in (loss, ReinforceLoss()))
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


def test_cispo_without_room_is_reinforce_anywhere() -> None:
    batch, outputs = case(4)
    loss = CISPOLoss({"ratio_clip_min": 0.0, "ratio_clip_max": 0.0})
    assert torch.equal(loss.compute_loss(batch, outputs), ReinforceLoss().compute_loss(batch, outputs))


def test_vespo_by_hand() -> None:
    """Row 0: W = 1.5 and A > 0, so (k, lambda) = (2, 3); row 1: W = 0.5 and A < 0, so (3, 2)."""
    value, gradient = value_and_gradient(VESPOLoss(), BATCH, OUTPUTS, FIELD)
    phi = torch.tensor([[1.5**2 * math.exp(-1.5)] * 2, [0.5**3 * math.exp(1.0), 0]], dtype=torch.float64)
    torch.testing.assert_close(gradient, -phi * A / 3)
    torch.testing.assert_close(value, -(phi * A * LP).sum() / 3)


@pytest.mark.parametrize(("k", "lam"), [(2.0, 3.0), (3.0, 2.0), (0.5, 4.0)])
def test_vespo_weight(k: float, lam: float) -> None:
    at = torch.linspace(-3, 3, 601, dtype=torch.float64)
    phi = vespo_weight(at, k, lam)
    assert vespo_weight(torch.zeros(()), k, lam) == 1
    peak = vespo_weight(torch.tensor(math.log(k / lam), dtype=torch.float64), k, lam)
    assert (phi <= peak).all()
    below, above = phi[at <= math.log(k / lam)], phi[at >= math.log(k / lam)]
    assert (below.diff() > 0).all()
    assert (above.diff() < 0).all()
    assert vespo_weight(torch.zeros(1), 0.0, 0.0).item() == 1


def test_vespo_bounds_of_the_log_ratio() -> None:
    def phi(delta: list[float]) -> float:
        lp = torch.full((1, len(delta)), -1.0, dtype=torch.float64)
        prev = torch.tensor([[0.0, *(-1 - d for d in delta)]], dtype=torch.float64)
        batch = {"token_mask": torch.ones(1, len(delta) + 1), "prev_logprobs": prev}
        batch["advantages"] = torch.ones(1, len(delta) + 1, dtype=torch.float64)
        config = {"k_pos": 1.0, "lambda_pos": 0.0}  # phi = W
        return float(VESPOLoss(config).compute_loss(batch, {FIELD: lp}).detach())

    assert phi([0.5, 0.25]) == pytest.approx(math.exp(0.75))
    assert phi([-300.0, 19.0]) == pytest.approx(math.exp(-1.0))  # -300 counts as -20
    assert phi([-20.0, -20.0]) == pytest.approx(1e-8)
    assert phi([19.0, 19.0]) == pytest.approx(math.exp(20))


@pytest.mark.parametrize(
    ("cls", "config", "message"),
    [
        (
            ReinforceLoss,
            {"ratio_clip_c": 3.0},
            "ReinforceLoss: unknown config key 'ratio_clip_c'; expected aggregation",
        ),
        (ReinforceLoss, {"aggregation": "fixed"}, "ReinforceLoss: aggregation='fixed' needs max_length"),
        (OnPolicyLoss, {"ratio_clip_min": 0.2}, "OnPolicyLoss: unknown config key 'ratio_clip_min'"),
        (
            CISPOLoss,
            {"weight_bound": "absolute", "ratio_clip_max": 0},
            "CISPOLoss: ratio_clip_max=0 with weight_bound='absolute' makes every weight 0; expected a number above 0",
        ),
        (CISPOLoss, {"ratio_clip_c": 3.0}, "CISPOLoss: unknown config key 'ratio_clip_c'"),
        (VESPOLoss, {"k_neg": -1}, "VESPOLoss: k_neg=-1 is out of range; expected a number at least 0"),
        (VESPOLoss, {"aggregation": "token_mean"}, "VESPOLoss: unknown config key 'aggregation'"),
    ],
)
def test_config_errors(cls: type, config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        cls(config)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(("mode", "is_max"), [("token_truncate", 2.0), ("token_mask", 2.0), ("token_mask", 1.0)])
def test_vespo_where_the_old_policy_drew_the_tokens(mode: str, is_max: float) -> None:
    batch = {**BATCH, "generation_logprobs": BATCH["prev_logprobs"]}
    loss = VESPOLoss({"importance_sampling": mode, "is_max": is_max})
    assert torch.equal(loss.compute_loss(batch, OUTPUTS), VESPOLoss().compute_loss(BATCH, OUTPUTS))


def test_vespo_does_not_look_at_untrained_tokens_of_the_generating_policy() -> None:
    masked = BATCH["token_mask"] == 0
    batch = {**BATCH, "generation_logprobs": (BATCH["prev_logprobs"] - 0.3).masked_fill(masked, math.nan)}
    value, gradient = value_and_gradient(VESPOLoss({"importance_sampling": "token_mask"}), batch, OUTPUTS, FIELD)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_a_token_the_generating_policy_could_not_have_drawn() -> None:
    """Its ratio is infinite: cut off it leaves the row next to nothing, truncated it is the highest one allowed."""
    x = torch.tensor([[math.inf, -math.inf, 0.5]])
    torch.testing.assert_close(folded_log_ratio(x), torch.tensor([[math.log(3), math.log(1e-8), 0.5]]))
    torch.testing.assert_close(folded_log_ratio(x, cut_off=True), torch.tensor([[math.log(1e-8)] * 2 + [0.5]]))
