"""Top-K distillation oracles against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from .distillation import forward_kl, mixed_kl, reverse_kl
from .distillation_topk import tail_bucket, topk_renorm, with_tail, zero_outside_topk
from .shared_rules import check_token_rules
from .test_distillation_divergences import FORWARD, LOG3, REVERSE, position, scored
from .test_oracles import LOG2, NAN, Data, Oracle, near

FULL: dict[str, Oracle] = {"forward": forward_kl, "reverse": reverse_kl, "mixed": mixed_kl}

# Teacher (2/5, 2/5, 1/5), student (3/8, 1/8, 4/8): on the first two (1/2, 1/2) and (3/4, 1/4).
THREE = position((LOG2, LOG2, 0), (LOG3, 0, 2 * LOG2))
REST = 0.5 * (math.log(0.5) + 100)  # the student's half outside, against the floor
WIDE_FORWARD = 0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.125)
WIDE_REVERSE = 0.375 * math.log(0.375 / 0.5) + 0.125 * math.log(0.125 / 0.5) + REST

BY_HAND: list[tuple[Oracle, dict[str, Any], float]] = [
    (topk_renorm, {}, FORWARD),
    (topk_renorm, {"kl_type": "reverse"}, REVERSE),
    (topk_renorm, {"kl_type": "mixed"}, (FORWARD + REVERSE) / 2),
    (topk_renorm, {"kl_type": "mixed", "mixed_kl_weight": 0.25}, 0.25 * FORWARD + 0.75 * REVERSE),
    (zero_outside_topk, {}, WIDE_FORWARD),
    (zero_outside_topk, {"kl_type": "reverse"}, WIDE_REVERSE),
    (zero_outside_topk, {"kl_type": "mixed", "mixed_kl_weight": 0.25}, 0.25 * WIDE_FORWARD + 0.75 * WIDE_REVERSE),
    # Buckets: the whole of it, three entries either way.
    (tail_bucket, {}, 0.4 * math.log(0.4 / 0.375) + 0.4 * math.log(0.4 / 0.125) + 0.2 * math.log(0.2 / 0.5)),
    # The student's two largest are entries 2 and 0.
    (
        tail_bucket,
        {"kl_type": "reverse"},
        0.5 * math.log(0.5 / 0.2) + 0.375 * math.log(0.375 / 0.4) + 0.125 * math.log(0.125 / 0.4),
    ),
]


@pytest.mark.parametrize(("oracle", "settings", "expected"), BY_HAND)
def test_one_position_by_hand(oracle: Oracle, settings: dict[str, Any], expected: float) -> None:
    assert oracle(*THREE, k=2, **settings) == near(expected)


def test_one_entry_by_hand() -> None:
    # The teacher's (earlier) largest against the rest: (2/5, 3/5) and (3/8, 5/8).
    assert topk_renorm(*THREE, k=1) == near(0.0)
    assert zero_outside_topk(*THREE, k=1) == near(-math.log(0.375))
    assert tail_bucket(*THREE, k=1) == near(0.4 * math.log(0.4 / 0.375) + 0.6 * math.log(0.6 / 0.625))
    # The student's: (1/2, 1/2) and (1/5, 4/5).
    expected = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    assert tail_bucket(*THREE, k=1, kl_type="reverse") == near(expected)


def test_given_entries_are_the_largest_ones() -> None:
    batch, outputs = scored(90)
    order = np.argsort(-batch["teacher_logits"], axis=-1)[..., :3]
    given = {name: field for name, field in batch.items() if name != "teacher_logits"}
    given["teacher_topk_indices"] = order
    given["teacher_topk_logits"] = np.take_along_axis(batch["teacher_logits"], order, axis=-1)
    for oracle in (topk_renorm, zero_outside_topk):
        for kl_type in FULL:
            settings: dict[str, Any] = {"kl_type": kl_type, "temperature": 1.5}
            assert oracle(given, outputs, **settings) == near(oracle(batch, outputs, k=3, **settings))
    assert topk_renorm(given, outputs) == near(forward_kl(given, outputs))


@pytest.mark.parametrize("kl_type", ["forward", "reverse", "mixed"])
def test_all_entries_are_the_full_kl(kl_type: str) -> None:
    batch, outputs = scored(91)
    settings: dict[str, Any] = {"kl_type": kl_type, "temperature": 0.7}
    full = FULL[kl_type](batch, outputs, temperature=0.7)
    oracles: list[Oracle] = [topk_renorm, zero_outside_topk]
    for oracle in (*oracles, tail_bucket) if kl_type != "mixed" else oracles:
        for k in (5, 64):
            assert oracle(batch, outputs, k=k, **settings) == near(full)


def test_mixed_ends() -> None:
    batch, outputs = scored(92)
    for oracle in (topk_renorm, zero_outside_topk):
        for weight, kl_type in ((1.0, "forward"), (0.0, "reverse")):
            mixed = oracle(batch, outputs, k=3, kl_type="mixed", mixed_kl_weight=weight)
            assert mixed == near(oracle(batch, outputs, k=3, kl_type=kl_type))


def test_a_coarser_support_sees_less() -> None:
    batch, outputs = scored(93)
    for kl_type in ("forward", "reverse"):
        values = [tail_bucket(batch, outputs, k=k, kl_type=kl_type) for k in (1, 2, 3, 4, 5)]
        assert values == sorted(values)
        assert values[-1] == near(FULL[kl_type](batch, outputs))


def test_equal_models_and_extremes() -> None:
    batch, _ = scored(94)
    same: Data = {"logits": batch["teacher_logits"]}
    for oracle in (topk_renorm, tail_bucket):
        assert oracle(batch, same, k=2) == near(0.0)
        assert oracle(batch, same, k=2, kl_type="reverse") == near(0.0)
    far = position((1e4, 0, 0), (0, 0, 1e4))
    assert topk_renorm(*far, k=2) == near(LOG2)
    assert zero_outside_topk(*far, k=1) == near(1e4)
    assert zero_outside_topk(*far, k=1, kl_type="reverse") == near(100.0)
    # The tail's log-probability never falls below log(1 - e^-1e-7).
    floor = math.log(1e-7) - 5e-8
    assert with_tail([0.0, -9e3], [0]) == [0.0, pytest.approx(floor, abs=1e-12)]
    assert tail_bucket(*far, k=1) == pytest.approx(1e4 + 1e-7 * floor, abs=1e-9)
    with pytest.raises(ValueError, match="kl_type"):
        tail_bucket(*far, kl_type="mixed")
    with pytest.raises(ValueError, match="kl_type"):
        topk_renorm(*far, kl_type="both")


@pytest.mark.parametrize("oracle", [topk_renorm, zero_outside_topk, tail_bucket])
def test_shared_rules(oracle: Oracle) -> None:
    batch, outputs = scored(95)
    for kl_type in ("forward", "reverse"):
        check_token_rules(oracle, batch, outputs, k=3, kl_type=kl_type)
        moved = {**batch, "teacher_logits": batch["teacher_logits"] - 50}, {"logits": outputs["logits"] + 50}
        value = oracle(batch, outputs, k=3, kl_type=kl_type)
        assert oracle(*moved, k=3, kl_type=kl_type) == pytest.approx(value, rel=1e-11)
    outputs["logits"][:, -1] = NAN
    assert math.isfinite(oracle(batch, outputs, k=3))
