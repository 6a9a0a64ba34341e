"""Distillation divergences against numbers worked out by hand, their bounds and reductions."""

import math
from typing import Any

import numpy as np
import pytest

from .distillation import forward_kl, reverse_kl
from .distillation_divergences import (
    cosine_distill,
    generalized_jsd,
    hinton_kd,
    skew_forward_kl,
    skew_reverse_kl,
    soft_ce,
    tvd,
)
from .shared_rules import check_token_rules
from .supervised import nll
from .test_oracles import LOG2, NAN, Data, Oracle, arr, near, random_tokens

LOG3 = math.log(3.0)


def position(teacher: tuple[float, ...], student: tuple[float, ...], target: int = 0) -> tuple[Data, Data]:
    """One trained token of these logits."""
    nan = [NAN] * len(student)
    batch: Data = {"token_mask": arr([1, 1]), "input_ids": np.array([[0, target]])}
    batch["teacher_logits"] = arr([teacher, nan[: len(teacher)]])
    return batch, {"logits": arr([student, nan])}


# The teacher is (1/2, 1/2), the student (3/4, 1/4).
PLAIN = position((0, 0), (LOG3, 0))
FORWARD = 0.5 * math.log(4 / 3)  # 1/2 log(2/3) + 1/2 log 2
REVERSE = 0.75 * math.log(1.5) - 0.25 * LOG2
# Their even mixture is (5/8, 3/8).
EVEN = 0.25 * math.log(4 / 5) + 0.25 * math.log(4 / 3) + 0.375 * math.log(6 / 5) + 0.125 * math.log(2 / 3)

BY_HAND: list[tuple[Oracle, dict[str, Any], float]] = [
    (soft_ce, {}, -0.5 * math.log(3 / 16)),
    (generalized_jsd, {"beta": 0.0}, FORWARD),
    (generalized_jsd, {"beta": 1.0}, REVERSE),
    (generalized_jsd, {}, EVEN),
    # At skew 1/2 both are against (5/8, 3/8).
    (skew_forward_kl, {"skew": 0.5}, 0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3)),
    (skew_forward_kl, {"skew": 0.5, "forward_part": "cross_entropy"}, 0.5 * math.log(8 / 5) + 0.5 * math.log(8 / 3)),
    (skew_reverse_kl, {"skew": 0.5}, 0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)),
    # 0.2 (1/2, 1/2) + 0.8 (3/4, 1/4) = (0.7, 0.3); 0.2 (3/4, 1/4) + 0.8 (1/2, 1/2) = (0.55, 0.45).
    (skew_forward_kl, {"skew": 0.2}, 0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3)),
    (skew_reverse_kl, {"skew": 0.2}, 0.75 * math.log(0.75 / 0.55) + 0.25 * math.log(0.25 / 0.45)),
    (tvd, {}, 0.25),
    # nll log(4/3); at T = 1 half of each.
    (hinton_kd, {"temperature": 1.0}, 0.5 * math.log(4 / 3) + 0.5 * FORWARD),
    (hinton_kd, {"alpha": 0.0, "temperature": 9.0}, math.log(4 / 3)),
    (hinton_kd, {"alpha": 1.0, "temperature": 1.0}, FORWARD),
]


@pytest.mark.parametrize(("oracle", "settings", "expected"), BY_HAND)
def test_one_position_by_hand(oracle: Oracle, settings: dict[str, Any], expected: float) -> None:
    assert oracle(*PLAIN, **settings) == near(expected)


def test_hinton_temperature_by_hand() -> None:
    # Logits 2 log 3 and 0 at T = 2 are (3/4, 1/4), at T = 1 (9/10, 1/10).
    case = position((0, 0), (2 * LOG3, 0))
    assert hinton_kd(*case) == near(0.5 * math.log(10 / 9) + 0.5 * 4 * FORWARD)
    assert hinton_kd(*case, scale_soft=False) == near(0.5 * math.log(10 / 9) + 0.5 * FORWARD)
    assert hinton_kd(*case, temper_hard=True) == near(0.5 * math.log(4 / 3) + 0.5 * 4 * FORWARD)
    for oracle, expected in ((soft_ce, FORWARD + LOG2), (generalized_jsd, EVEN), (tvd, 0.25)):
        assert oracle(*case, temperature=2.0) == near(expected)


def test_cosine_by_hand() -> None:
    # cos((1, 0), (1, 1)) = 1 / sqrt 2; opposite ones 2 beta; a zero vector has cosine 0.
    assert cosine_distill(*position((3, 0), (5, 5))) == near(0.5 * (1 - math.sqrt(0.5)))
    assert cosine_distill(*position((3, 0), (-7, 0)), beta=2.0) == near(4.0)
    assert cosine_distill(*position((0, 0), (LOG3, 0)), hard_weight=3.0) == near(0.5 + 3 * math.log(4 / 3))


def scored(seed: int) -> tuple[Data, Data]:
    batch, outputs = random_tokens(seed)
    batch["sample_mask"] = np.array([1.0, 0.5, 1.0, 2.0])
    return batch, {"logits": outputs["logits"]}


ALL: list[Oracle] = [soft_ce, generalized_jsd, skew_forward_kl, skew_reverse_kl, tvd, hinton_kd, cosine_distill]
DIVERGENCES: list[Oracle] = [generalized_jsd, skew_forward_kl, skew_reverse_kl, tvd]


def test_reductions() -> None:
    batch, outputs = scored(80)
    for temperature in (1.0, 2.5):
        hot: dict[str, Any] = {"temperature": temperature}
        forward, reverse = forward_kl(batch, outputs, **hot), reverse_kl(batch, outputs, **hot)
        assert generalized_jsd(batch, outputs, beta=0.0, **hot) == near(forward)
        assert generalized_jsd(batch, outputs, beta=1.0, **hot) == near(reverse)
        assert generalized_jsd(batch, outputs, beta=1e-7, **hot) / 1e-7 == pytest.approx(forward, rel=1e-5)
        assert generalized_jsd(batch, outputs, beta=1 - 1e-7, **hot) / 1e-7 == pytest.approx(reverse, rel=1e-5)
        assert skew_forward_kl(batch, outputs, skew=0.0, **hot) == near(forward)
        assert skew_reverse_kl(batch, outputs, skew=0.0, **hot) == near(reverse)
        assert skew_forward_kl(batch, outputs, skew=1.0, **hot) == near(0.0)
        assert skew_reverse_kl(batch, outputs, skew=1.0, **hot) == near(0.0)
        entropy = soft_ce(batch, {"logits": batch["teacher_logits"]}, **hot)
        assert soft_ce(batch, outputs, **hot) == near(forward + entropy)
        assert hinton_kd(batch, outputs, alpha=1.0, **hot) == near(temperature**2 * forward)
    assert hinton_kd(batch, outputs, alpha=0.0) == near(nll(batch, outputs))
    assert cosine_distill(batch, outputs, hard_weight=1.0) == near(cosine_distill(batch, outputs) + nll(batch, outputs))
    # Teacher and student changing places.
    swapped = {**batch, "teacher_logits": outputs["logits"]}, {"logits": batch["teacher_logits"]}
    assert generalized_jsd(*swapped, beta=0.3) == near(generalized_jsd(batch, outputs, beta=0.7))
    assert skew_forward_kl(*swapped) == near(skew_reverse_kl(batch, outputs))
    assert tvd(*swapped) == near(tvd(batch, outputs))


def test_skews_add_up_to_the_mixture() -> None:
    # beta KL(p || M) + (1 - beta) KL(q || M), M = beta p + (1 - beta) q.
    batch, outputs = scored(81)
    parts = 0.3 * skew_forward_kl(batch, outputs, skew=0.3) + 0.7 * skew_reverse_kl(batch, outputs, skew=0.7)
    assert generalized_jsd(batch, outputs, beta=0.3) == near(parts)


def test_equal_models() -> None:
    batch, outputs = scored(82)
    same: Data = {"logits": batch["teacher_logits"]}
    for oracle in (*DIVERGENCES, cosine_distill):
        assert oracle(batch, same) == near(0.0)
        assert oracle(batch, outputs) > 1e-3
    assert hinton_kd(batch, same) == near(0.5 * nll(batch, same))


def test_bounds_at_opposite_certainties() -> None:
    far = position((1e4, -1e4), (-1e4, 1e4))
    assert tvd(*far) == near(1.0)
    assert generalized_jsd(*far) == near(LOG2)
    assert generalized_jsd(*far, beta=0.1) == near(-0.1 * math.log(0.1) - 0.9 * math.log(0.9))
    assert skew_forward_kl(*far) == near(-math.log(0.1))
    assert skew_reverse_kl(*far) == near(-math.log(0.1))
    assert soft_ce(*far) == near(2e4)
    assert hinton_kd(*far) == near(0.5 * 2e4 + 2 * 1e4)
    assert cosine_distill(*far) == near(1.0)
    # An entry that both models rule out adds nothing.
    closed = position((0, 0, -math.inf), (LOG3, 0, -math.inf))
    for oracle in (soft_ce, *DIVERGENCES):
        assert oracle(*closed) == near(oracle(*PLAIN))


def test_top_entries_of_the_teacher() -> None:
    # The plain case, at entries 2 and 0 of a larger vocabulary.
    batch, outputs = position((0, 0), (0, 8, LOG3))
    del batch["teacher_logits"]
    batch["teacher_topk_logits"] = np.zeros((1, 2, 2))
    batch["teacher_topk_indices"] = np.array([[[2, 0], [-9, -9]]])
    for oracle in (soft_ce, *DIVERGENCES):
        assert oracle(batch, outputs) == near(oracle(*PLAIN))
    assert hinton_kd(batch, outputs, alpha=1.0, temperature=1.0) == near(FORWARD)


@pytest.mark.parametrize("oracle", ALL)
def test_shared_rules(oracle: Oracle) -> None:
    batch, outputs = scored(83)
    check_token_rules(oracle, batch, outputs)
    value = oracle(batch, outputs)
    if oracle is not cosine_distill:
        moved = {**batch, "teacher_logits": batch["teacher_logits"] - 50}, {"logits": outputs["logits"] + 50}
        assert oracle(*moved) == pytest.approx(value, rel=1e-11)
    order = [3, 0, 4, 1, 2]
    renamed = {**batch, "teacher_logits": batch["teacher_logits"][..., order]}
    renamed["input_ids"] = np.argsort(order)[batch["input_ids"]]
    assert oracle(renamed, {"logits": outputs["logits"][..., order]}) == near(value)
