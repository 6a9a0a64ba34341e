"""RLOO, GPG, A*-PO and VAPO's imitation term, by hand and by law."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import A2POLoss, ConfigError, GPGLoss, NLLLoss, PPOClipLoss, ReinforceLoss, RLOOLoss, VAPONLLLoss
from loss_reference.policy_gradient.a2po import a2po_value
from loss_reference.policy_gradient.advantages import rloo_advantages
from tests.reference.cases import Tensors, case, value_and_gradient
from tests.reference.policy_gradient.further import FIELD, further_case

NAN = math.nan


def two_rows(ratios: list[list[float]], advantages: list[float]) -> tuple[Tensors, Tensors]:
    """Return rows of two tokens with these ratios; one advantage per row."""
    rho = torch.tensor(ratios, dtype=torch.float64)
    A = torch.tensor(advantages, dtype=torch.float64)[:, None].expand(-1, 3)
    lp = torch.full_like(rho, -0.7)
    prev = torch.cat([torch.full((len(rho), 1), NAN, dtype=torch.float64), lp - rho.log()], dim=1)
    return {"token_mask": torch.ones(len(rho), 3), "prev_logprobs": prev, "advantages": A}, {FIELD: lp}


def test_the_ratio_is_that_of_the_whole_answer() -> None:
    """Row 0: 1.1 * 1.05 = 1.155, open; row 1: 1.1 * 1.1 = 1.21 is clipped, though neither token would be."""
    batch, outputs = two_rows([[1.1, 1.05], [1.1, 1.1]], [2, 1])
    value, gradient = value_and_gradient(RLOOLoss(), batch, outputs, FIELD)
    assert value.item() == pytest.approx(-(2 * 1.155 + 1.2) / 2)
    torch.testing.assert_close(gradient, torch.tensor([[-1.155, -1.155], [0, 0]]).double())
    _, by_token = value_and_gradient(RLOOLoss({"ratio_level": "token"}), batch, outputs, FIELD)
    torch.testing.assert_close(by_token, -torch.tensor([[2.2, 2.1], [1.1, 1.1]]).double() / 4)


def test_a_float_row_weight_does_not_enter_the_ratio() -> None:
    batch, outputs = two_rows([[1.1, 1.05], [0.9, 1.0]], [2, -1])
    batch["sample_mask"] = torch.tensor([0.5, 2.0], dtype=torch.float64)
    value, _ = value_and_gradient(RLOOLoss(), batch, outputs, FIELD)
    assert value.item() == pytest.approx((0.5 * -2 * 1.155 + 2 * 0.9) / 2.5)


def test_rows_of_one_token_and_the_token_level_are_ppo() -> None:
    batch, outputs = further_case(1, sample_mask="floats")
    for config, mask in (({}, None), ({"ratio_level": "token"}, batch["token_mask"])):
        one = torch.zeros(4, 6, dtype=torch.float64)
        one[torch.arange(4), torch.tensor([1, 3, 5, 2])] = 1
        part = batch | {"token_mask": one if mask is None else mask}
        got, expected = (value_and_gradient(loss, part, outputs, FIELD) for loss in (RLOOLoss(config), PPOClipLoss()))
        torch.testing.assert_close(got[0], expected[0])
        torch.testing.assert_close(got[1], expected[1])


def test_on_policy_it_is_reinforce_on_the_whole_answer() -> None:
    batch, outputs = further_case(2, sample_mask=None)
    outputs[FIELD] = batch["prev_logprobs"][:, 1:].clone()
    A = rloo_advantages(batch["rewards"], torch.tensor([0, 0, 1, 1]))
    batch["advantages"] = A[:, None].expand(4, 6)
    value, gradient = value_and_gradient(RLOOLoss(), batch, outputs, FIELD)
    trained = batch["token_mask"][:, 1:].any(dim=1)  # a row without a token has neither ratio nor advantage
    torch.testing.assert_close(value, -(A * trained).mean())
    torch.testing.assert_close(gradient, -A[:, None] * batch["token_mask"][:, 1:] / 4)


@pytest.mark.parametrize("config", [{}, {"aggregation": "seq_mean_token_sum"}])
def test_gpg_is_reinforce(config: dict[str, str]) -> None:
    batch, outputs = case(3, sample_mask="floats", counts=True)
    got, expected = (value_and_gradient(cls(config), batch, outputs, FIELD) for cls in (GPGLoss, ReinforceLoss))
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_a2po_by_hand() -> None:
    """h = (0.3 + 0.1, -0.2): errors .5 * .4 - (1 - .2) and .5 * -.2 - (0 - .5)."""
    lp = torch.tensor([[-0.5, -0.6], [-0.7, -9]], dtype=torch.float64)
    ref = torch.tensor([[NAN, -0.8, -0.7], [NAN, -0.5, NAN]], dtype=torch.float64)
    batch = {
        "token_mask": torch.tensor([[1.0, 1, 1], [1, 1, 0]]),
        "reference_policy_logprobs": ref,
        "rewards": torch.tensor([1.0, 0.0], dtype=torch.float64),
        "v_star": torch.tensor([0.2, 0.5], dtype=torch.float64),
    }
    value, gradient = value_and_gradient(A2POLoss({"beta": 0.5}), batch, {FIELD: lp}, FIELD)
    assert value.item() == pytest.approx((0.6**2 + 0.4**2) / 2)
    torch.testing.assert_close(gradient, torch.tensor([[-0.3, -0.3], [0.2, 0]]).double())
    batch["reference_policy_logprobs"] = torch.cat([ref[:, :1], lp], dim=1)
    at_reference = A2POLoss().compute_loss(batch, {FIELD: lp})
    assert isinstance(at_reference, torch.Tensor)
    assert at_reference.item() == pytest.approx((0.8**2 + 0.5**2) / 2)


def test_the_optimal_value() -> None:
    equal = torch.full((2, 4), 3.0, dtype=torch.float64)
    torch.testing.assert_close(a2po_value(equal), equal[:, 0])
    r = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert a2po_value(r).item() == pytest.approx(0.5 * math.log((1 + math.e**2) / 2))
    assert a2po_value(r, 1e6).item() == pytest.approx(0.5, abs=1e-6)
    assert a2po_value(r, 1e-3).item() == pytest.approx(1.0, abs=1e-3)
    assert a2po_value(1e4 * r.float()).item() == pytest.approx(1e4 - 0.5 * math.log(2))


def test_vapo_imitates_correct_answers_alone() -> None:
    lp = torch.tensor([[-1.0, -2], [-5, -7], [-3, -4]], dtype=torch.float64)
    batch = {
        "token_mask": torch.tensor([[1.0, 1, 1], [1, 1, 1], [1, 1, 0]]),
        "rewards": torch.tensor([1.0, 0.0, 0.1], dtype=torch.float64),
    }
    value, gradient = value_and_gradient(VAPONLLLoss({"coefficient": 0.1}), batch, {FIELD: lp}, FIELD)
    assert value.item() == pytest.approx(0.1 * 6 / 3)
    torch.testing.assert_close(gradient, -torch.tensor([[0.1, 0.1], [0, 0], [0.1, 0]]).double() / 3)
    counted = batch | {"global_correct_toks": torch.tensor(12.0)}
    assert VAPONLLLoss().compute_loss(counted, {FIELD: lp}).item() == pytest.approx(6 / 12)  # type: ignore[union-attr]
    wrong = batch | {"rewards": -batch["rewards"]}
    assert VAPONLLLoss().compute_loss(wrong, {FIELD: lp}) == 0
    right = batch | {"rewards": torch.ones(3)}
    expected = NLLLoss().compute_loss(batch, {FIELD: lp})
    torch.testing.assert_close(VAPONLLLoss().compute_loss(right, {FIELD: lp}), expected)


@pytest.mark.parametrize(
    ("cls", "config", "message"),
    [
        (RLOOLoss, {"ratio_level": "row"}, "RLOOLoss: ratio_level='row'; expected one of 'sequence', 'token'"),
        (RLOOLoss, {"aggregation": "fixed"}, "RLOOLoss: unknown config key 'aggregation'; expected ratio_level"),
        (A2POLoss, {"beta": 0}, "A2POLoss: beta=0 is out of range; expected a number above 0"),
        (VAPONLLLoss, {"coefficient": -1}, "VAPONLLLoss: coefficient=-1 is out of range; expected a number at least 0"),
    ],
)
def test_config_errors(cls: type, config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        cls(config)
    assert str(error.value).startswith(message)
