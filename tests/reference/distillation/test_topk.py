"""Distillation from the teacher's top K: renormalised, zero elsewhere, or with a bucket for the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, registry
from loss_reference.distillation.tail_bucket import with_tail
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.distillation.extended import extended_case
from tests.reference.distillation.test_kl import one_position

INF = math.inf
# Teacher (0.5, 0.3, 0.1, 0.1), student (0.2, 0.2, 0.4, 0.2).
TEACHER = [math.log(p) for p in (0.5, 0.3, 0.1, 0.1)]
STUDENT = [math.log(q) for q in (0.2, 0.2, 0.4, 0.2)]
KL_TYPES = ("forward", "reverse", "mixed")


def kl(a: list[float], b: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)


def full_teacher(seed: int) -> tuple[Tensors, Tensors]:
    batch, outputs = extended_case(seed, sample_mask="floats")
    del batch["teacher_topk_logits"], batch["teacher_topk_indices"]
    return batch, outputs


OUTSIDE = math.exp(-100)
TOP2_FULL = [5 / 8, 3 / 8, OUTSIDE, OUTSIDE]


@pytest.mark.parametrize(
    ("name", "config", "by_hand"),
    [
        ("topk_renorm", {}, kl([5 / 8, 3 / 8], [0.5, 0.5])),
        ("topk_renorm", {"kl_type": "reverse"}, kl([0.5, 0.5], [5 / 8, 3 / 8])),
        ("zero_outside_topk", {}, kl([5 / 8, 3 / 8], [0.2, 0.2])),
        ("zero_outside_topk", {"kl_type": "reverse"}, kl([0.2, 0.2, 0.4, 0.2], TOP2_FULL)),
        (
            "zero_outside_topk",
            {"kl_type": "mixed", "mixed_kl_weight": 0.25},
            0.25 * kl([5 / 8, 3 / 8], [0.2, 0.2]) + 0.75 * kl([0.2, 0.2, 0.4, 0.2], TOP2_FULL),
        ),
        ("tail_bucket", {}, kl([0.5, 0.3, 0.2], [0.2, 0.2, 0.6])),
        (
            "tail_bucket",
            {"kl_type": "reverse", "k": 1},
            kl([0.4, 0.6], [0.1, 0.9]),
        ),  # the student's likeliest is token 2
    ],
)
def test_by_hand(name: str, config: dict[str, Any], by_hand: float) -> None:
    loss = registry.create(name, {"k": 2, **config})
    value, _ = value_and_gradient(loss, *one_position(TEACHER, STUDENT), "logits")
    assert value.item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("kl_type", KL_TYPES)
@pytest.mark.parametrize("name", ["topk_renorm", "zero_outside_topk", "tail_bucket"])
@pytest.mark.parametrize("k", [5, 64])
def test_the_whole_vocabulary_is_the_full_divergence(name: str, kl_type: str, k: int) -> None:
    if name == "tail_bucket" and kl_type == "mixed":
        return
    batch, outputs = full_teacher(1)
    config = {"temperature": 0.7}
    got = value_and_gradient(registry.create(name, {"k": k, "kl_type": kl_type, **config}), batch, outputs, "logits")
    expected = value_and_gradient(registry.create(f"{kl_type}_kl", config), batch, outputs, "logits")
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("weight", "kl_type"), [(0.0, "reverse"), (1.0, "forward")])
@pytest.mark.parametrize("name", ["topk_renorm", "zero_outside_topk"])
def test_mixture_end_points(name: str, weight: float, kl_type: str) -> None:
    batch, outputs = full_teacher(2)
    mixed = registry.create(name, {"k": 2, "kl_type": "mixed", "mixed_kl_weight": weight})
    expected = value_and_gradient(registry.create(name, {"k": 2, "kl_type": kl_type}), batch, outputs, "logits")
    torch.testing.assert_close(value_and_gradient(mixed, batch, outputs, "logits"), expected)


@pytest.mark.parametrize("kl_type", ["forward", "reverse"])
@pytest.mark.parametrize("seed", range(5))
def test_merging_tokens_loses_information(kl_type: str, seed: int) -> None:
    batch, outputs = full_teacher(seed)
    config = {"kl_type": kl_type}
    values = [
        value_and_gradient(registry.create("tail_bucket", {"k": k, **config}), batch, outputs, "logits")[0].item()
        for k in (1, 2, 3, 4, 5)
    ]
    full = value_and_gradient(f"{kl_type}_kl", batch, outputs, "logits")[0].item()
    assert values == sorted(values)
    assert 0 <= values[0] < full
    assert values[-1] == pytest.approx(full, rel=1e-12)
    assert values[3] == pytest.approx(full, rel=1e-12)  # a bucket of one token merges nothing


def test_topk_renorm_does_not_see_the_others_and_zero_outside_does() -> None:
    teacher, student = one_position(TEACHER, STUDENT)
    _, unseen = value_and_gradient(registry.create("topk_renorm", {"k": 2}), teacher, student, "logits")
    _, seen = value_and_gradient(registry.create("zero_outside_topk", {"k": 2}), teacher, student, "logits")
    assert unseen[0, 0, 2:].abs().sum() == 0
    assert seen[0, 0, 2:].tolist() == pytest.approx([0.4, 0.2])  # q - 0


@pytest.mark.parametrize("name", ["topk_renorm", "zero_outside_topk"])
def test_a_given_top_k_goes_before_the_full_teacher(name: str) -> None:
    batch, outputs = extended_case(3)
    alone = {field: x for field, x in batch.items() if field != "teacher_logits"}
    expected = value_and_gradient(name, alone, outputs, "logits")
    torch.testing.assert_close(value_and_gradient(name, batch, outputs, "logits"), expected, rtol=0, atol=0)


def test_the_tail_does_not_cancel() -> None:
    """1 - sum of the K is 0 in float32 here; the tail is e^-30."""
    log_a = torch.tensor([[0.0, -30.0, -INF], [0.0, -INF, -INF]]).requires_grad_()
    tail = with_tail(log_a, torch.tensor([[0], [0]]))
    assert tail.tolist() == [[0.0, -30.0], [0.0, -INF]]
    (gradient,) = torch.autograd.grad(tail[:, 0].sum() + tail[0, 1], log_a)
    assert gradient.tolist() == [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize("name", ["topk_renorm", "zero_outside_topk", "tail_bucket"])
def test_impossible_tokens(name: str) -> None:
    got = value_and_gradient(name, *one_position([*TEACHER, -INF], [*STUDENT, -INF]), "logits")
    smaller = value_and_gradient(name, *one_position(TEACHER, STUDENT), "logits")
    torch.testing.assert_close(got[0], smaller[0])
    assert torch.isfinite(got[1][0, 0]).all()


@pytest.mark.parametrize("name", ["topk_renorm", "zero_outside_topk", "tail_bucket"])
def test_config_errors(name: str) -> None:
    cls = registry.get(name).__name__
    for config, message in (
        ({"k": 0}, f"{cls}: k=0 is out of range; expected a number at least 1"),
        ({"k": 2.5}, f"{cls}: k=2.5; expected a whole number"),
        ({"kl_type": "forwards"}, f"{cls}: kl_type='forwards'; expected one of 'forward', 'reverse'"),
    ):
        with pytest.raises(ConfigError, match=message):
            registry.create(name, config)


def test_errors() -> None:
    batch, outputs = extended_case(5)
    wrong = batch | {"teacher_topk_indices": batch["teacher_topk_indices"] + 5}
    with pytest.raises(
        ValueError, match=r"teacher_topk_indices holds token id [5-9], outside the vocabulary of 5 logits"
    ):
        registry.create("topk_renorm").compute_loss(wrong, outputs)
    with pytest.raises(KeyError, match="batch needs 'teacher_logits', or 'teacher_topk_logits' and"):
        registry.create("topk_renorm").compute_loss({"token_mask": batch["token_mask"]}, outputs)
