"""MiniLLM, on-policy distillation on sampled tokens, and self-distillation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, registry
from loss_reference.distillation.minillm import MiniLLMLoss, discounted_future
from loss_reference.distillation.on_policy import early_disagreement_weight
from loss_reference.distillation.self_distillation import clipped_importance
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.distillation.extended import extended_case

LOGPROB = "next_token_logprobs"


def three_tokens(lp: list[float], teacher: list[float], **fields: list[float]) -> tuple[Tensors, Tensors]:
    """One row of three trained tokens; entry 0 of what is aligned with input_ids means nothing."""
    row = {name: [math.nan, *x] for name, x in {"teacher_logprobs": teacher, **fields}.items()}
    batch = {name: torch.tensor([x], dtype=torch.float64) for name, x in row.items()}
    return batch | {"token_mask": torch.ones(1, 4)}, {LOGPROB: torch.tensor([lp], dtype=torch.float64)}


def test_discounted_future() -> None:
    x = torch.tensor([[1.0, 2.0, 4.0]])
    assert discounted_future(x, 0.0).tolist() == x.tolist()
    assert discounted_future(x, 1.0).tolist() == [[7.0, 6.0, 4.0]]
    assert discounted_future(x, 0.5).tolist() == [[3.0, 4.0, 4.0]]
    assert discounted_future(x[:, :0], 0.5).shape == (1, 0)
    m = torch.tensor([[1.0, 0.0, 0.3]])  # a weight of 0.3 trains on the token all the same
    R = MiniLLMLoss({"gamma": 0.5}).future_reward(x * (m > 0), m, m)
    assert R.tolist()[0] == pytest.approx([(1 + 4 / 4) / (1 + 1 / 4), 4.0, 4.0])


def test_opd_by_hand() -> None:
    value, gradient = value_and_gradient("opd_sampled", *three_tokens([-1.0, -2.0, -0.5], [-2.0, -1.0, -0.5]), LOGPROB)
    assert value.item() == pytest.approx(((2 - 1) * -1.0 + (1 - 2) * -2.0) / 3)
    assert gradient[0].tolist() == pytest.approx([1 / 3, -1 / 3, 0.0])  # lp - lp_T: 0 where both agree


def test_iw_opd_by_hand() -> None:
    """A = (-1, 1, 2), so 0, 1/4 and 1/2 of the disagreement lies before each token: w = 1.5, 1.375, 1.25."""
    batch, outputs = three_tokens([-1.0, -3.0, -2.0], [-2.0, -1.0, -0.5], generation_logprobs=[-1.0, -2.0, -2.5])
    value, gradient = value_and_gradient("iw_opd", batch, outputs, LOGPROB)
    assert gradient[0].tolist() == pytest.approx([1.5 / 3, -1.375 / 3, -2 * 1.25 / 3])
    assert value.item() == pytest.approx((1.5 * -1 + 1.375 * 3 + 2 * 1.25 * 2) / 3)
    # Without a rollout the student's own log-probabilities are taken: with gamma = 0 that is opd_sampled.
    batch, outputs = extended_case(1, source=LOGPROB, sample_mask="floats")
    del batch["generation_logprobs"]
    plain = value_and_gradient(registry.create("iw_opd", {"gamma": 0.0}), batch, outputs, LOGPROB)
    torch.testing.assert_close(plain, value_and_gradient("opd_sampled", batch, outputs, LOGPROB))


def test_iw_opd_weights_stay_between_1_and_1_plus_gamma() -> None:
    A = torch.randn(20, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A[3] = 0.0
    w = early_disagreement_weight(A, 0.5)
    assert w.min() >= 1.0
    assert w.max() == 1.5
    assert (w[:, 1:] <= w[:, :-1] + 1e-12).all()
    assert torch.isfinite(early_disagreement_weight(torch.zeros(1, 3), 0.5)).all()


@pytest.mark.parametrize("length_normalization", [True, False])
def test_minillm_at_equality_has_no_gradient_and_no_value(length_normalization: bool) -> None:
    batch, _ = extended_case(2)
    del batch["advantages"]
    loss = registry.create("minillm", {"length_normalization": length_normalization})
    value, gradient = value_and_gradient(loss, batch, {"logits": batch["teacher_logits"]}, "logits")
    assert abs(value.item()) < 1e-15
    assert gradient.abs().max() < 1e-15


def test_minillm_parts() -> None:
    """Without R it is PPO; without PPO's part, A = 0 everywhere, it is reverse_kl."""
    batch, outputs = extended_case(3, sample_mask="floats")
    same = batch | {"teacher_logits": outputs["logits"].clone()}
    got = value_and_gradient(registry.create("minillm", {"ratio_clip_min": 0.5}), same, outputs, "logits")
    torch.testing.assert_close(
        got, value_and_gradient(registry.create("ppo_clip", {"ratio_clip_min": 0.5}), batch, outputs, "logits")
    )
    on_policy = {field: x for field, x in batch.items() if field not in ("prev_logprobs", "advantages")}
    policy = registry.create("minillm", {"single_step_weight": 0.0})
    both, policy_alone = (value_and_gradient(x, on_policy, outputs, "logits") for x in ("minillm", policy))
    kl = value_and_gradient("reverse_kl", batch, outputs, "logits")
    torch.testing.assert_close(both[0] - policy_alone[0], kl[0])
    torch.testing.assert_close(both[1] - policy_alone[1], kl[1])


@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
def test_powers_from_the_start_of_the_answer(gamma: float) -> None:
    """Nothing divides them out; R of the second trained token, after a hole, has the factor g^2."""
    config = {"gamma": gamma, "length_normalization": False}
    relative, absolute = (MiniLLMLoss(config | {"discount": x}) for x in ("relative", "absolute"))
    m, x = torch.tensor([[0.0, 1.0, 0.0, 0.5]]), torch.tensor([[0.0, 1.0, 0.0, 3.0]])
    R, R_absolute = (loss.future_reward(x, m, m)[0, [1, 3]] for loss in (relative, absolute))
    matters = gamma == 0.7
    torch.testing.assert_close(R_absolute, R * torch.tensor([1.0, 0.49 if matters else 1.0]))
    assert absolute.contract.options["discount"].inert is not matters


def test_padding_that_counts() -> None:
    """It is what MiniLLM says of whole answers, of the trained tokens of which alone the policy learns; and it is read."""
    batch, outputs = extended_case(3, sample_mask="floats")
    del batch["advantages"]
    whole = batch | {"token_mask": (batch["token_mask"][:, 1:] != 0).cumsum(1).clamp(max=1)}
    whole["token_mask"] = torch.cat([torch.zeros(4, 1), whole["token_mask"]], dim=1).double()
    counted, alone = MiniLLMLoss({"padding": "counted"}), MiniLLMLoss({"padding": "counted", "single_step_weight": 0})
    assert (whole["token_mask"] != batch["token_mask"])[:, 1:].any()
    both, policy = (value_and_gradient(loss, batch, outputs, "logits") for loss in (counted, alone))
    kl = value_and_gradient("reverse_kl", whole, outputs, "logits")
    torch.testing.assert_close(both[0] - policy[0], kl[0])
    torch.testing.assert_close(both[1] - policy[1], kl[1])
    assert not policy[1][:, :-1][batch["token_mask"][:, 1:] == 0].any()
    for loss in (counted, alone):  # with nothing to count it is the plain one
        plain = MiniLLMLoss({"single_step_weight": loss.single_step_weight})
        got, expected = (value_and_gradient(x, whole, outputs, "logits") for x in (loss, plain))
        torch.testing.assert_close(got, expected)
    read = batch | {"teacher_logits": batch["teacher_logits"].clone()}
    read["teacher_logits"][:, :-1][(batch["token_mask"] == 0)[:, 1:], 0] += 1.0
    for loss in (counted, alone):
        moved, still = (value_and_gradient(loss, x, outputs, "logits")[0].item() for x in (read, batch))
        assert moved != pytest.approx(still, rel=1e-6)
    assert counted.contract.coupled
    assert set(counted.contract.exempt) == {"mask_value", "mask_extreme", "mask_gradient", "padding"}
    assert not MiniLLMLoss().contract.exempt


def test_a_reward_with_a_gradient() -> None:
    """The same value; where nothing is clipped and rho is 1, gamma = 0, the gradient of -R comes on top: that of lp / T_g."""
    batch, outputs = extended_case(6)
    del batch["advantages"], batch["prev_logprobs"]
    config = {"gamma": 0.0, "single_step_weight": 0.0}
    held, passed = (MiniLLMLoss(config | {"detach_reward": x}) for x in (True, False))
    got, plain = (value_and_gradient(x, batch, outputs, "logits") for x in (passed, held))
    torch.testing.assert_close(got[0], plain[0])
    torch.testing.assert_close(got[1] - plain[1], -value_and_gradient("nll", batch, outputs, "logits")[1])


def test_minillm_pulls_towards_what_the_teacher_likes() -> None:
    """gamma = 0: the gradient of the sampled token's log-probability is -(lp_T - lp) / T."""
    batch, outputs = extended_case(4, sample_mask=None)
    batch = {field: x for field, x in batch.items() if field not in ("prev_logprobs", "advantages")}
    loss = registry.create("minillm", {"gamma": 0.0, "single_step_weight": 0.0})
    _, gradient = value_and_gradient(loss, batch, outputs, "logits")
    y = batch["input_ids"][:, 1:, None]
    lp, lp_teacher = (
        z[:, :-1].log_softmax(-1).gather(-1, y)[..., 0] for z in (outputs["logits"], batch["teacher_logits"])
    )
    m = batch["token_mask"][:, 1:]
    one_minus_p = 1 - lp.exp()
    expected = -(lp_teacher - lp) * one_minus_p * m / m.sum()
    torch.testing.assert_close(gradient[:, :-1].gather(-1, y)[..., 0], expected)


def test_importance_is_clipped_above_and_its_exponent_on_both_sides() -> None:
    lp = torch.tensor([0.0, -1.0, -1e4, 1e4], requires_grad=True)
    w = clipped_importance(lp, torch.zeros(4), 2.0)
    assert w.tolist() == pytest.approx([1.0, math.exp(-1), math.exp(-20), 2.0])
    assert not w.requires_grad


@pytest.mark.parametrize(("alpha", "name"), [(0.0, "forward_kl"), (0.3, "generalized_jsd"), (1.0, "reverse_kl")])
def test_sdft_on_policy_is_the_divergence_by_rows(alpha: float, name: str) -> None:
    batch, outputs = extended_case(5, rows=2, sample_mask=None)
    batch["token_mask"] = torch.ones_like(batch["token_mask"])
    y = batch["input_ids"][:, 1:, None]
    lp = outputs["logits"][:, :-1].log_softmax(-1).gather(-1, y)[..., 0]
    batch["prev_logprobs"] = torch.cat([torch.full((2, 1), math.nan), lp], dim=1)
    got = value_and_gradient(registry.create("sdft", {"alpha": alpha}), batch, outputs, "logits")
    divergence = registry.create(name, {"beta": alpha} if name == "generalized_jsd" else {})
    torch.testing.assert_close(got, value_and_gradient(divergence, batch, outputs, "logits"))


@pytest.mark.parametrize("is_clip", [0.5, 2.0])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_sdft_is_at_most_the_clip_times_the_entropy_of_alpha(alpha: float, is_clip: float) -> None:
    """Reached where teacher and student share no token, and every importance weight is cut off."""
    most = -is_clip * (alpha * math.log(alpha) + (1 - alpha) * math.log(1 - alpha))
    loss = registry.create("sdft", {"alpha": alpha, "is_clip": is_clip})
    batch, outputs = extended_case(8, sample_mask=None)
    batch["token_mask"][0, 1] = 1.0
    batch["prev_logprobs"] = batch["prev_logprobs"] - 30
    assert 0 < value_and_gradient(loss, batch, outputs, "logits")[0] < most
    outputs["logits"][..., 2:], batch["teacher_logits"][..., :2] = -math.inf, -math.inf
    batch["input_ids"] = batch["input_ids"] % 2
    value, gradient = value_and_gradient(loss, batch, outputs, "logits")
    assert value.item() == pytest.approx(most, rel=1e-12)
    assert torch.isfinite(gradient).all()


def test_sdpo_by_hand_and_its_policy_share() -> None:
    batch, outputs = three_tokens([-1.0, -2.0, -0.5], [-2.0, -1.0, -0.5], prev_logprobs=[-1.0, -4.0, -0.5])
    _, gradient = value_and_gradient("sdpo", batch, outputs, LOGPROB)
    assert gradient[0].tolist() == pytest.approx([1 / 3, -2.0 / 3, 0.0])  # the second weight is clipped to 2
    with pytest.raises(KeyError, match="advantages"):
        registry.create("sdpo", {"distillation_weight": 0.5}).compute_loss(batch, outputs)
    batch, outputs = extended_case(6, source=LOGPROB, sample_mask="floats")
    policy = value_and_gradient(registry.create("sdpo", {"distillation_weight": 0.0}), batch, outputs, LOGPROB)
    ppo = registry.create("ppo_clip", {"aggregation": "seq_mean_token_mean"})
    torch.testing.assert_close(policy, value_and_gradient(ppo, batch, outputs, LOGPROB))
    distilled = value_and_gradient("sdpo", batch, outputs, LOGPROB)
    mixed = value_and_gradient(registry.create("sdpo", {"distillation_weight": 0.25}), batch, outputs, LOGPROB)
    torch.testing.assert_close(mixed[1], 0.75 * policy[1] + 0.25 * distilled[1])


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("minillm", {"gamma": 1.1}, "MiniLLMLoss: gamma=1.1 is out of range"),
        ("minillm", {"single_step_weight": -1}, "MiniLLMLoss: single_step_weight=-1 is out of range"),
        ("iw_opd", {"gamma": -0.5}, "IWOPDLoss: gamma=-0.5 is out of range"),
        ("sdft", {"is_clip": 0}, "SDFTLoss: is_clip=0 is out of range; expected a number above 0"),
        ("sdpo", {"distillation_weight": 1.5}, "SDPOLoss: distillation_weight=1.5 is out of range"),
    ],
)
def test_config_errors(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.create(name, config)
