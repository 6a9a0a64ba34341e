"""Composites of values and of teachers against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from .composite_objectives import (
    dwa_weights,
    dynamic_loss_scaling,
    flooding,
    multi_teacher,
    uncertainty_weighting,
)
from .distillation import forward_kl, mixed_kl, reverse_kl
from .shared_rules import check_token_rules
from .test_distillation_divergences import FORWARD, LOG3, REVERSE, position
from .test_oracles import LOG2, NAN, Data, arr, near, random_tokens


def test_dynamic_loss_scaling_by_hand() -> None:
    assert dynamic_loss_scaling(3.0, 0.5) == near(6.0)
    assert dynamic_loss_scaling(3.0, 1e-300) == near(6.0)
    assert dynamic_loss_scaling(3.0, 0.0) == 3.0
    assert dynamic_loss_scaling(3.0, -2.0) == near(0.0)
    assert dynamic_loss_scaling(-3.0, 2.0) == near(0.0)
    assert dynamic_loss_scaling(0.0, 2.0) == 0.0


def test_uncertainty_weighting_by_hand() -> None:
    assert uncertainty_weighting([3.0, 5.0], [0.0, 0.0]) == near(4.0)
    assert uncertainty_weighting([3.0, 5.0], [LOG2, -LOG2]) == near(0.75 + 5.0)
    # Least where e^s = L: 1/2 + 1/2 log L.
    least = uncertainty_weighting([4.0], [2 * LOG2])
    assert least == near(0.5 + LOG2)
    assert all(uncertainty_weighting([4.0], [2 * LOG2 + step]) > least for step in (-0.01, 0.01))


def test_dwa_by_hand() -> None:
    assert dwa_weights([1.0, 4.0, 9.0], [2.0, 8.0, 18.0]) == [near(1.0)] * 3
    # Rates 2 and 0 over T = 2: e/(e + 1) and 1/(e + 1), twice.
    assert dwa_weights([2.0, 0.0], [1.0, 5.0]) == [near(2 * math.e / (math.e + 1)), near(2 / (math.e + 1))]
    # Rates 3 log 3 and 0 at T = 3.
    assert dwa_weights([LOG3, 0.0], [1 / 3, 1.0], 3.0) == [near(1.5), near(0.5)]
    assert sum(dwa_weights([0.3, 0.2, 7.0], [0.1, 0.4, 1.0])) == near(3.0)
    assert dwa_weights([1e9, 1.0], [1.0, 1.0]) == [near(2.0), near(0.0)]


def test_flooding_by_hand() -> None:
    assert flooding(3.0, 1.0) == near(3.0)
    assert flooding(0.25, 1.0) == near(1.75)
    assert flooding(1.0, 1.0) == near(1.0)
    assert flooding(2.0) == near(2.0)


def teachers(*logits: tuple[float, float], target: int = 0) -> tuple[Data, Data]:
    """One token, these teachers, and a student of (3/4, 1/4)."""
    batch, outputs = position((0, 0), (LOG3, 0), target)
    del batch["teacher_logits"]
    batch["teachers_logits"] = arr([logits, [(NAN, NAN)] * len(logits)])
    return batch, outputs


def test_teachers_by_hand() -> None:
    # Teachers (1/2, 1/2) and (9/10, 1/10), whose logits average to (3/4, 1/4).
    both = teachers((0, 0), (2 * LOG3, 0))
    other = 0.9 * math.log(0.9 / 0.75) + 0.1 * math.log(0.1 / 0.25)
    assert multi_teacher(*both) == near(FORWARD + other)
    assert multi_teacher(*both, weights=[0.25, 2.0]) == near(0.25 * FORWARD + 2 * other)
    assert multi_teacher(*both, kl_type="reverse", weights=[1.0, 0.0]) == near(REVERSE)
    assert multi_teacher(*both, aggregation="averaged_logits") == near(0.0)
    assert multi_teacher(*both, aggregation="averaged_logits", weights=[3.0, 0.0]) == near(FORWARD)
    # The second teacher is the better one of token 0, the first of token 1.
    assert multi_teacher(*both, aggregation="select_teacher") == near(other)
    batch, outputs = teachers((0, 0), (2 * LOG3, 0), target=1)
    assert multi_teacher(batch, outputs, aggregation="select_teacher") == near(FORWARD)
    # Weights a half of each: the average's logits keep the same.
    doubled = multi_teacher(batch, outputs, aggregation="averaged_logits", weights=[7.0, 7.0])
    assert doubled == near(0.0)
    # A teacher of weight 0 is not read.
    batch["teachers_logits"][0, 0, 1] = NAN
    for aggregation in ("sum", "averaged_logits"):
        assert multi_teacher(batch, outputs, aggregation=aggregation, weights=[1.0, 0.0]) == near(FORWARD)


def crowd(seed: int, count: int) -> tuple[Data, Data]:
    batch, outputs = random_tokens(seed)
    batch["sample_mask"] = np.array([1.0, 0.5, 1.0, 2.0])
    batch["teachers_logits"] = np.random.default_rng(seed).normal(size=(4, 6, count, 5))
    return batch, {"logits": outputs["logits"]}


@pytest.mark.parametrize("aggregation", ["sum", "averaged_logits", "select_teacher"])
def test_one_teacher_is_itself(aggregation: str) -> None:
    batch, outputs = crowd(120, 1)
    alone = {**batch, "teacher_logits": batch["teachers_logits"][:, :, 0]}
    for kl_type, oracle in (("forward", forward_kl), ("reverse", reverse_kl), ("mixed", mixed_kl)):
        assert multi_teacher(batch, outputs, aggregation=aggregation, kl_type=kl_type) == near(oracle(alone, outputs))


@pytest.mark.parametrize(
    "settings",
    [{}, {"weights": [0.2, 0.0, 1.5]}, {"aggregation": "averaged_logits", "weights": [1, 2, 3], "kl_type": "reverse"}],
)
def test_shared_rules(settings: dict[str, Any]) -> None:
    batch, outputs = crowd(121, 3)
    check_token_rules(multi_teacher, batch, outputs, **settings)


def test_the_order_of_teachers() -> None:
    batch, outputs = crowd(122, 3)
    turned = {**batch, "teachers_logits": batch["teachers_logits"][:, :, ::-1]}
    for aggregation in ("sum", "averaged_logits", "select_teacher"):
        value = multi_teacher(batch, outputs, aggregation=aggregation)
        assert multi_teacher(turned, outputs, aggregation=aggregation) == near(value)
        assert multi_teacher({**batch, "sample_mask": np.zeros(4)}, outputs, aggregation=aggregation) == 0.0


def test_refused_settings() -> None:
    batch, outputs = crowd(123, 2)
    with pytest.raises(ValueError, match="unknown aggregation"):
        multi_teacher(batch, outputs, aggregation="mean")
    with pytest.raises(ValueError, match="unknown kl_type"):
        multi_teacher(batch, outputs, kl_type="both")
    with pytest.raises(ValueError, match="3 weights for 2"):
        multi_teacher(batch, outputs, weights=[1, 1, 1])
    with pytest.raises(ValueError, match="sum to 0"):
        multi_teacher(batch, outputs, aggregation="averaged_logits", weights=[1, -1])
