"""Forward, reverse and mixed KL between teacher and student."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import ConfigError, ForwardKLLoss, LossFunction, MixedKLLoss, ReverseKLLoss
from tests.reference.cases import Tensors, case, value_and_gradient

LOSSES = (ForwardKLLoss, ReverseKLLoss, MixedKLLoss)
INF = math.inf


def one_position(
    teacher: list[float], student: list[float], dtype: torch.dtype = torch.float64
) -> tuple[Tensors, Tensors]:
    """Return a case with one trained position whose logits are given; the last position is NaN."""
    garbage = [math.nan] * len(teacher)
    batch = {"token_mask": torch.ones(1, 2), "teacher_logits": torch.tensor([[teacher, garbage]], dtype=dtype)}
    return batch, {"logits": torch.tensor([[student, garbage]], dtype=dtype)}


# Teacher (1/2, 1/2), student (1/4, 3/4).
P, Q = [math.log(0.5), math.log(0.5)], [math.log(0.25), math.log(0.75)]
FORWARD = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
REVERSE = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)


@pytest.mark.parametrize(
    ("loss", "by_hand"),
    [
        (ForwardKLLoss(), FORWARD),
        (ReverseKLLoss(), REVERSE),
        (MixedKLLoss(), (FORWARD + REVERSE) / 2),
        (MixedKLLoss({"mixed_kl_weight": 0.25}), 0.25 * FORWARD + 0.75 * REVERSE),
    ],
)
def test_by_hand(loss: LossFunction, by_hand: float) -> None:
    batch, outputs = one_position(P, Q)
    assert value_and_gradient(loss, batch, outputs, "logits")[0].item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_gradients_by_formula(temperature: float) -> None:
    batch, outputs = one_position([0.1, 2.0, -1.0], [1.0, 0.0, 0.3])
    log_p = (batch["teacher_logits"][0, 0] / temperature).log_softmax(-1)
    log_q = (outputs["logits"][0, 0] / temperature).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    config = {"temperature": temperature}
    _, forward = value_and_gradient(ForwardKLLoss(config), batch, outputs, "logits")
    torch.testing.assert_close(forward[0, 0], (q - p) / temperature)
    value, reverse = value_and_gradient(ReverseKLLoss(config), batch, outputs, "logits")
    torch.testing.assert_close(reverse[0, 0], q * (log_q - log_p - value) / temperature)


@pytest.mark.parametrize("loss", LOSSES)
def test_zero_with_zero_gradient_at_equality(loss: type[LossFunction]) -> None:
    batch, _ = case(1, source="logits")
    value, gradient = value_and_gradient(loss(), batch, {"logits": batch["teacher_logits"]}, "logits")
    assert value == 0
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-16)


@pytest.mark.parametrize("loss", LOSSES)
def test_positive_and_blind_to_a_shift_of_the_logits(loss: type[LossFunction]) -> None:
    batch, outputs = case(2, source="logits")
    value = loss().compute_loss(batch, outputs)
    assert isinstance(value, torch.Tensor)
    assert value > 0
    shifted = loss().compute_loss(batch, {"logits": outputs["logits"] + torch.randn(4, 6, 1, dtype=torch.float64)})
    torch.testing.assert_close(shifted, value)


@pytest.mark.parametrize(("weight", "special"), [(1.0, ForwardKLLoss), (0.0, ReverseKLLoss)])
def test_mixture_end_points(weight: float, special: type[LossFunction]) -> None:
    batch, outputs = case(3, source="logits", sample_mask="floats")
    got = value_and_gradient(MixedKLLoss({"mixed_kl_weight": weight}), batch, outputs, "logits")
    expected = value_and_gradient(special(), batch, outputs, "logits")
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("loss", LOSSES)
def test_topk_of_the_whole_vocabulary_is_the_full_divergence(loss: type[LossFunction]) -> None:
    batch, outputs = case(4, source="logits")
    full = value_and_gradient(loss(), batch, outputs, "logits")
    teacher = batch.pop("teacher_logits")
    indices = torch.rand(4, 6, 5).argsort(-1)
    batch |= {"teacher_topk_indices": indices, "teacher_topk_logits": teacher.gather(-1, indices)}
    topk = value_and_gradient(loss(), batch, outputs, "logits")
    torch.testing.assert_close(topk[0], full[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(topk[1], full[1], rtol=1e-11, atol=1e-15)


def test_topk_by_hand() -> None:
    """Teacher keeps tokens 2 and 0 with equal probability; the student has 1/4 and 3/4 there after renormalising."""
    batch, outputs = one_position([0.0, 0.0, 0.0], [math.log(0.6), math.log(0.2), math.log(0.2)])
    del batch["teacher_logits"]
    batch |= {
        "teacher_topk_logits": torch.tensor([[[7.0, 7.0], [math.nan, math.nan]]]),
        "teacher_topk_indices": torch.tensor([[[2, 0], [-9, 99]]]),
    }
    value, gradient = value_and_gradient(ForwardKLLoss(), batch, outputs, "logits")
    assert value.item() == pytest.approx(FORWARD)
    assert gradient[0, 0].tolist() == pytest.approx([0.25, 0, -0.25])
    assert value_and_gradient(ReverseKLLoss(), batch, outputs, "logits")[0].item() == pytest.approx(REVERSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_tokens_impossible_for_both_add_nothing(loss: type[LossFunction], dtype: torch.dtype) -> None:
    batch, outputs = one_position([*P, -INF], [*Q, -INF], dtype)
    value, gradient = value_and_gradient(loss(), batch, outputs, "logits")
    smaller = value_and_gradient(loss(), *one_position(P, Q, dtype), "logits")
    torch.testing.assert_close(value, smaller[0])
    torch.testing.assert_close(gradient[..., :2], smaller[1])
    assert gradient[..., 2].abs().sum() == 0


def test_zero_probabilities_on_one_side() -> None:
    impossible_for_teacher = one_position([0.0, -INF], Q)
    value, gradient = value_and_gradient(ForwardKLLoss(), *impossible_for_teacher, "logits")
    assert value.item() == pytest.approx(math.log(4))
    assert gradient[0, 0].tolist() == pytest.approx([-0.75, 0.75])
    assert value_and_gradient(ReverseKLLoss(), *impossible_for_teacher, "logits")[0] == INF
    impossible_for_student = one_position(P, [0.0, -INF])
    value, gradient = value_and_gradient(ReverseKLLoss(), *impossible_for_student, "logits")
    assert value.item() == pytest.approx(math.log(2))
    assert gradient.abs().sum() == 0  # a probability of 0 cannot be raised, and the other is 1
    assert value_and_gradient(ForwardKLLoss(), *impossible_for_student, "logits")[0] == INF
    assert value_and_gradient(MixedKLLoss(), *impossible_for_student, "logits")[0] == INF


@pytest.mark.parametrize("loss", LOSSES)
def test_saturated_logits_stay_finite_in_float32(loss: type[LossFunction]) -> None:
    for teacher, student in ([1e4, -1e4], [-1e4, 1e4]), ([1e4, 0.0], [1e4, -1e4]), ([200.0, 0.0], [0.0, 200.0]):
        value, gradient = value_and_gradient(loss(), *one_position(teacher, student, torch.float32), "logits")
        assert math.isfinite(value)
        assert torch.isfinite(gradient).all()


def test_errors() -> None:
    batch, outputs = case(5, source="logits")
    del batch["teacher_logits"]
    wrong = batch | {"teacher_topk_indices": torch.zeros(4, 6, 2, dtype=torch.int64)}
    with pytest.raises(
        ValueError, match=r"teacher_topk_indices has shape \(4, 6, 2\); expected \(4, 6, 3\), as teacher_topk"
    ):
        ForwardKLLoss().compute_loss(wrong, outputs)
    with pytest.raises(ValueError, match="teacher_topk_indices holds token id 5, outside the vocabulary of 5 logits"):
        ForwardKLLoss().compute_loss(batch | {"teacher_topk_indices": batch["teacher_topk_indices"] + 5 - 4}, outputs)
    del batch["teacher_topk_logits"]
    with pytest.raises(KeyError, match="batch needs 'teacher_logits', or 'teacher_topk_logits'"):
        ForwardKLLoss().compute_loss(batch, outputs)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temperature": 0}, "MixedKLLoss: temperature=0 is out of range; expected a number above 0"),
        (
            {"mixed_kl_weight": 1.5},
            "MixedKLLoss: mixed_kl_weight=1.5 is out of range; expected a number at least 0 and at most 1",
        ),
    ],
)
def test_config_errors(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        MixedKLLoss(config)
    assert str(error.value) == message
