"""Cross-tokenizer distillation: chunks of text, projection of vocabularies, common tokens."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import registry
from loss_reference.distillation.cross_tokenizer import exact_matches
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.distillation.extended import chunked_case

NAMES = ("xtoken_pkl", "xtoken_gold")


def logs(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float64).log()


def one_chunk(student: torch.Tensor, teacher: torch.Tensor) -> tuple[Tensors, Tensors]:
    batch = {
        "teacher_logits": teacher,
        "student_chunk_ids": torch.zeros(student.shape[:2], dtype=torch.long),
        "teacher_chunk_ids": torch.zeros(teacher.shape[:2], dtype=torch.long),
        "chunk_valid": torch.ones(1, 1),
    }
    return batch, {"logits": student}


# Two tokens of the student are one of the teacher's: s = the mean (0.3, 0.7) of its probabilities.
STUDENT, TEACHER = logs([0.2, 0.8], [0.4, 0.6]), logs([0.5, 0.5])


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("xtoken_pkl", 0.5 * math.log(0.5 / 0.3) + 0.5 * math.log(0.5 / 0.7)),
        # s is the mean of its log-probabilities, the logarithms of (sqrt 0.08, sqrt 0.48).
        ("xtoken_gold", 0.5 * math.log(0.5 / 0.08**0.5) + 0.5 * math.log(0.5 / 0.48**0.5)),
    ],
)
def test_by_hand(name: str, by_hand: float) -> None:
    value, _ = value_and_gradient(name, *one_chunk(STUDENT, TEACHER), "logits")
    assert value.item() == pytest.approx(by_hand, rel=1e-12)


def test_projection_by_hand() -> None:
    """The student's token 0 is shared by both of the teacher's, its token 1 is the teacher's token 1."""
    M = torch.tensor([[0.25, 0.75], [0.0, 1.0]])
    value, _ = value_and_gradient(
        registry.create("xtoken_pkl", {"projection": M}), *one_chunk(STUDENT, TEACHER), "logits"
    )
    s = 0.25 * 0.3
    assert value.item() == pytest.approx(0.5 * math.log(0.5 / s) + 0.5 * math.log(0.5 / (1 - s)), rel=1e-12)
    assert exact_matches(M) == [(1, 1)]
    gold = registry.create("xtoken_gold", {"projection": M})
    log_s, rest = math.log(0.48) / 2, 0.08**0.5
    expected = 0.5 * (math.log(0.5) - log_s) + abs(0.5 - rest)
    assert value_and_gradient(gold, *one_chunk(STUDENT, TEACHER), "logits")[0].item() == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("k", [1, 3, 64])
@pytest.mark.parametrize("name", NAMES)
def test_zero_for_equal_models_and_single_tokens(name: str, k: int) -> None:
    batch, _ = chunked_case(1, U=5, S=6, R=6)
    ids = torch.tensor([[0, 1, 2, 3, -1, 9]] * 3)
    batch |= {"student_chunk_ids": ids, "teacher_chunk_ids": ids}
    config = {"k": k, "temperature": 0.8}
    value, gradient = value_and_gradient(
        registry.create(name, config), batch, {"logits": batch["teacher_logits"]}, "logits"
    )
    assert abs(value.item()) < 1e-14
    assert gradient.abs().max() < 1e-14


def test_equal_models_and_longer_chunks() -> None:
    """xtoken_pkl compares a mean of probabilities with one of log-probabilities, xtoken_gold alike with alike."""
    two = logs([0.2, 0.8], [0.4, 0.6])
    t = [math.sqrt(0.2 * 0.4), math.sqrt(0.8 * 0.6)]
    expected = t[0] * math.log(t[0] / 0.3) + t[1] * math.log(t[1] / 0.7)
    pkl, gold = (value_and_gradient(name, *one_chunk(two, two), "logits")[0].item() for name in NAMES)
    assert pkl == pytest.approx(expected, rel=1e-12)
    assert abs(pkl) > 0.01
    assert abs(gold) < 1e-15


@pytest.mark.parametrize("name", NAMES)
def test_longer_chunks_may_be_negative(name: str) -> None:
    batch, outputs = one_chunk(logs([0.5, 0.5]), logs([0.99, 0.01], [0.01, 0.99]))
    assert value_and_gradient(name, batch, outputs, "logits")[0].item() < -0.3


@pytest.mark.parametrize("name", NAMES)
def test_temperature_factor_keeps_the_gradient_of_small_logits(name: str) -> None:
    """With T^2 the gradient of nearly uniform rows does not depend on T."""
    batch, outputs = one_chunk(1e-3 * torch.randn(1, 1, 4).double(), 1e-3 * torch.randn(1, 1, 4).double())
    low, high = (
        value_and_gradient(registry.create(name, {"temperature": T}), batch, outputs, "logits")[1] for T in (1.0, 8.0)
    )
    # The expansion in small logits is relative to the largest entry.
    torch.testing.assert_close(low, high, rtol=0, atol=2e-2 * float(high.abs().amax()))


def test_a_teacher_token_nothing_is_projected_to_stays_finite() -> None:
    batch, outputs = one_chunk(logs([0.5, 0.5]), logs([0.2, 0.2, 0.6]))
    value, gradient = value_and_gradient("xtoken_pkl", batch, outputs, "logits")
    assert value.item() == pytest.approx(0.4 * math.log(0.2 / 0.5) + 0.6 * math.log(0.6 / 1e-10))
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(("pad_rest", "by_hand"), [(False, 0.0), (True, 0.6)])
def test_gold_rest(pad_rest: bool, by_hand: float) -> None:
    """The teacher's third token has no counterpart, and the student no token left to compare it with."""
    batch, outputs = one_chunk(logs([0.5, 0.5]), logs([0.2, 0.2, 0.6]))
    loss = registry.create("xtoken_gold", {"pad_rest": pad_rest})
    common = 0.4 * math.log(0.2 / 0.5)
    assert value_and_gradient(loss, batch, outputs, "logits")[0].item() == pytest.approx(common + by_hand, rel=1e-12)
    few = registry.create("xtoken_gold", {"projection": torch.zeros(2, 3), "k": 1})
    assert value_and_gradient(few, batch, outputs, "logits")[0].item() == pytest.approx(0.6 - 0.5)
