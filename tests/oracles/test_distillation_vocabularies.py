"""Distillation between vocabularies: oracles against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from .distillation import forward_kl
from .distillation_divergences import generalized_jsd, tvd
from .distillation_vocabularies import (
    hybrid_uld,
    hybrid_uld_merged,
    merged_logprobs,
    sorted_distance,
    uld,
    xtoken_gold,
    xtoken_pkl,
)
from .shared_rules import check_absence, check_token_rules
from .supervised import nll
from .test_distillation_divergences import EVEN, FORWARD, LOG3, position, scored
from .test_oracles import LOG2, NAN, Data, Oracle, arr, near

LOG5 = math.log(5.0)


def test_sorted_distance() -> None:
    half, quarter = -LOG2, -2 * LOG2
    assert sorted_distance([half, half], [quarter, half, quarter]) == near(0.5)
    assert sorted_distance([], [half]) == near(0.5)
    assert sorted_distance([], []) == 0.0
    # The largest of each side only: 1/2 against 1/2.
    assert sorted_distance([half, half], [quarter, half, quarter], 1) == 0.0


def test_uld_by_hand() -> None:
    # Student (1/4, 1/2, 1/4) against the teacher (1/2, 1/2).
    case = position((0, 0), (0, LOG2, 0), target=1)
    assert uld(*case) == near(0.5)
    assert uld(*case, crossentropy_weight=2.0) == near(0.5 + 2 * LOG2)
    # Logits 2 log 2 at temperature 2.
    assert uld(*position((0, 0), (0, 2 * LOG2, 0)), temperature=2.0) == near(0.5)
    assert uld(*position((0, 0, -math.inf), (0, -1e4, 0))) == near(0.0)
    assert uld(*position((1e4, 0), (0, 0, 0, 0))) == near(1.5)


def test_uld_laws() -> None:
    batch, outputs = scored(110)
    value = uld(batch, outputs)
    assert uld({**batch, "teacher_logits": batch["teacher_logits"][..., ::-1]}, outputs) == near(value)
    assert uld(batch, {"logits": batch["teacher_logits"][..., [3, 0, 4, 1, 2]]}) == near(0.0)
    expected = value + 0.7 * nll(batch, outputs, aggregation="seq_mean_token_mean")
    assert uld(batch, outputs, crossentropy_weight=0.7) == near(expected)
    # With both sorted already it is twice the total variation, rows of equal length.
    batch["token_mask"] = np.ones((4, 6))
    sorted_case = {**batch, "teacher_logits": np.sort(batch["teacher_logits"], -1)}
    in_order: Data = {"logits": np.sort(outputs["logits"], -1)}
    assert uld(sorted_case, in_order) == near(2 * tvd(sorted_case, in_order))
    assert uld(batch, outputs) <= 2 * tvd(batch, outputs)


def test_merging_by_hand() -> None:
    # First (3/5, 3/10, 1/10), then token 1 at 1/2: half of the first.
    rows = [[math.log(x) for x in (0.6, 0.3, 0.1)], [math.log(x) for x in (0.2, 0.5, 0.3)]]
    assert [math.exp(x) for x in merged_logprobs(rows, [0, 1])] == near_list([0.3, 0.15, 0.05])
    assert merged_logprobs(rows[:1], [2]) == rows[0]
    far = [[math.log(0.5), math.log(0.5)], [math.log(1e-12), 0.0]]
    assert [math.exp(x) for x in merged_logprobs(far, [0, 0])] == near_list([0.5e-8, 0.5e-8])


def near_list(expected: list[float]) -> Any:
    return pytest.approx(expected, rel=1e-12, abs=0)


def test_merged_chunks_by_hand() -> None:
    # The student's two positions (1/2, 1/2) and (1/4, 3/4) spell what the teacher's one (1/5, 4/5) does: (1/8, 1/8).
    batch: Data = {
        "input_ids": np.array([[1, 1, 0, 1]]),
        "teacher_logits": arr([[0.0, 2 * LOG2], [NAN, NAN]]),
        "teacher_input_ids": np.array([[0, 1]]),
        "student_chunk_ids": np.array([[0, 0, -1, 0]]),
        "teacher_chunk_ids": np.array([[0, 0]]),
        "chunk_valid": arr([1]),
    }
    outputs: Data = {"logits": arr([[0.0, 0.0], [0.0, LOG3], [NAN, NAN], [NAN, NAN]])}
    got = hybrid_uld_merged(batch, outputs, vocabulary_map=[-1, -1])
    assert got == near((0.8 - 0.125) + (0.2 - 0.125))
    forward = 0.2 * math.log(0.2 / 0.125) + 0.8 * math.log(0.8 / 0.125)
    assert hybrid_uld_merged(batch, outputs, beta=0.0) == near(forward)
    assert hybrid_uld_merged({**batch, "chunk_valid": arr([0])}, outputs) == 0.0


def test_chunks_of_one_position_are_not_merged() -> None:
    batch, outputs = scored(111)
    batch["token_mask"] = np.ones((4, 6))
    each = np.tile(np.arange(6), (4, 1))
    chunks: Data = {"student_chunk_ids": each, "teacher_chunk_ids": each, "chunk_valid": np.ones((4, 6))}
    merged_too: Data = {**batch, **chunks, "teacher_input_ids": batch["input_ids"]}
    assert hybrid_uld_merged(merged_too, outputs, temperature=0.7) == near(hybrid_uld(batch, outputs, temperature=0.7))


def test_hybrid_by_hand() -> None:
    # Teacher (2/5, 2/5, 1/5), student (3/8, 1/8, 4/8); student 0 is teacher 1, student 2 teacher 0.
    case = position((LOG2, LOG2, 0), (LOG3, 0, 2 * LOG2))
    matching: dict[str, Any] = {"vocabulary_map": [1, -1, 0]}
    forward = 0.4 * math.log(0.4 / 0.375) + 0.4 * math.log(0.4 / 0.5)
    reverse = 0.375 * math.log(0.375 / 0.4) + 0.5 * math.log(0.5 / 0.4)
    rest = 0.2 - 0.125
    assert hybrid_uld(*case, beta=0.0, **matching) == near(2 / 3 * forward + rest / 3)
    assert hybrid_uld(*case, beta=1.0, **matching) == near(2 / 3 * reverse + rest / 3)
    weighed = hybrid_uld(*case, beta=0.0, matched_weight=3.0, unmatched_weight=5.0, **matching)
    assert weighed == near(3 * forward + 5 * rest)
    middle = [(0.4, 0.375), (0.4, 0.5)]
    even = sum(0.5 * (p * math.log(2 * p / (p + q)) + q * math.log(2 * q / (p + q))) for p, q in middle)
    assert hybrid_uld(*case, unmatched_weight=0.0, **matching) == near(2 / 3 * even)
    # Nothing matched: uld. A smaller teacher, by equal ids: entries 0 and 1, and the student's third of 1/2.
    assert hybrid_uld(*case, vocabulary_map=[-1, -1, -1]) == near(uld(*case))
    small = position((0, 0), (LOG3, 0, 2 * LOG2))
    forward = 0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.125)
    assert hybrid_uld(*small, beta=0.0) == near(forward)
    assert hybrid_uld(*small, beta=0.0, unmatched_weight=1.0) == near(forward + 0.5)
    assert hybrid_uld(*position((0, 0), (LOG3, 0))) == near(EVEN)


def test_hybrid_of_one_vocabulary() -> None:
    batch, outputs = scored(111)
    batch["token_mask"] = np.ones((4, 6))
    for beta in (0.0, 0.3, 1.0):
        for temperature in (1.0, 2.0):
            settings: dict[str, Any] = {"beta": beta, "temperature": temperature}
            expected = generalized_jsd(batch, outputs, **settings)
            assert hybrid_uld(batch, outputs, **settings) == near(expected)
    order = [3, 0, 4, 1, 2]
    renamed: Data = {"logits": outputs["logits"][..., order]}
    assert hybrid_uld(batch, renamed, vocabulary_map=order) == near(generalized_jsd(batch, outputs))


@pytest.mark.parametrize("oracle", [uld, hybrid_uld])
def test_token_rules(oracle: Oracle) -> None:
    batch, outputs = scored(112)
    batch["teacher_logits"] = np.random.default_rng(112).normal(size=(4, 6, 7))
    check_token_rules(oracle, batch, outputs)


def chunked(student: Any, teacher: Any, own: list[int], others: list[int], valid: list[float]) -> tuple[Data, Data]:
    """One row of these logits, its positions in these chunks."""
    batch: Data = {
        "teacher_logits": arr(teacher),
        "student_chunk_ids": np.array([own]),
        "teacher_chunk_ids": np.array([others]),
        "chunk_valid": arr(valid),
    }
    return batch, {"logits": arr(student)}


# Chunk 0: student (3/4, 1/4) and (1/4, 3/4), mean (1/2, 1/2); teacher one position of (1/2, 1/2).
# Chunk 1: student (3/4, 1/4); teacher (9/10, 1/10) and (1/2, 1/2).
TWO_CHUNKS = chunked(
    [(LOG3, 0), (NAN, NAN), (0, LOG3), (LOG3, 0)],
    [(2 * LOG3, 0), (0, 0), (1, 1)],
    [0, -1, 0, 1],
    [1, 1, 0],
    [1, 1],
)
LEFT, RIGHT = math.sqrt(0.45), math.sqrt(0.05)  # geometric means of chunk 1's teacher
SECOND = LEFT * math.log(LEFT / 0.75) + RIGHT * math.log(RIGHT / 0.25)
# Geometric means of chunk 0's student: sqrt(3)/4 both.
FIRST = math.log(0.5 / (math.sqrt(3) / 4))


def test_chunks_by_hand() -> None:
    assert xtoken_pkl(*TWO_CHUNKS) == near(SECOND / 2)
    assert xtoken_gold(*TWO_CHUNKS) == near((FIRST + SECOND) / 2)
    batch, outputs = TWO_CHUNKS
    half = {**batch, "chunk_valid": arr([1, 0.5])}
    assert xtoken_pkl(half, outputs) == near(0.5 * SECOND / 1.5)
    assert xtoken_gold(half, outputs) == near((FIRST + 0.5 * SECOND) / 1.5)
    counted = {**batch, "global_valid_chunks": np.array(8.0)}
    assert xtoken_pkl(counted, outputs) == near(SECOND / 8)
    assert xtoken_gold(counted, outputs) == near((FIRST + SECOND) / 8)
    # Twice the logits at T = 2, times 4.
    hot = {**batch, "teacher_logits": 2 * batch["teacher_logits"]}, {"logits": 2 * outputs["logits"]}
    assert xtoken_pkl(*hot, temperature=2.0) == near(4 * SECOND / 2)
    assert xtoken_gold(*hot, temperature=2.0) == near(4 * (FIRST + SECOND) / 2)
    # An unnormalised teacher can go below 0.
    batch, outputs = chunked([(0, 0)], [(LOG3, 0), (0, LOG3)], [0], [0, 0], [1])
    below = math.sqrt(3) / 2 * math.log(math.sqrt(3) / 2)
    for oracle in (xtoken_pkl, xtoken_gold):
        assert oracle(batch, outputs) == near(below)


def test_chunks_that_weigh_nothing() -> None:
    batch, outputs = TWO_CHUNKS
    chunks: list[Oracle] = [xtoken_pkl, xtoken_gold]
    for oracle, first in zip(chunks, (0.0, FIRST), strict=True):
        assert oracle({**batch, "chunk_valid": arr([1, 0])}, outputs) == near(first)
        # No student position, or no teacher position, in chunk 1.
        assert oracle({**batch, "student_chunk_ids": np.array([[0, -1, 0, 9]])}, outputs) == near(first)
        assert oracle({**batch, "teacher_chunk_ids": np.array([[5, -3, 0]])}, outputs) == near(first)
        assert oracle({**batch, "chunk_valid": arr([0, 0])}, outputs) == 0.0
        spoilt = {**batch, "chunk_valid": arr([1, 0]), "teacher_logits": batch["teacher_logits"].copy()}
        spoilt["teacher_logits"][0, :2] = NAN
        assert oracle(spoilt, {"logits": np.where([[[0], [0], [0], [1]]], NAN, outputs["logits"])}) == near(first)


def test_leading_entries_by_hand() -> None:
    # Largest logits anywhere: 9, 8, 3 of entries 1, 0, 2; chunk 0 has 9 and 5, chunk 1 has 3 and 8.
    batch, outputs = chunked([(LOG3, 0, 5), (0, LOG5, 7)], [(5, 9, 1), (8, 2, 3)], [0, 1], [0, 1], [1, 1])

    def bernoulli(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    first = bernoulli(1 / (1 + math.exp(4)), 0.75)
    second = bernoulli(1 / (1 + math.exp(-6)), 1 / 6)
    assert xtoken_pkl(batch, outputs, k=2) == near((first + second) / 2)
    assert xtoken_pkl(batch, outputs, k=1) == near(0.0)
    # A chunk that weighs nothing leads nothing: entries 1 and 0 of chunk 0 alone, or 0 and 2 of chunk 1.
    assert xtoken_pkl({**batch, "chunk_valid": arr([1, 0])}, outputs, k=2) == near(first)
    alone = bernoulli(1 / (1 + math.exp(-5)), 1 / (1 + math.exp(7)))
    assert xtoken_pkl({**batch, "chunk_valid": arr([0, 1])}, outputs, k=2) == near(alone)


def test_projections_by_hand() -> None:
    # Student (1/2, 1/4, 1/4); its entries 0 and 2 both go to teacher 1, entry 1 to teacher 0 by half and 2 by half.
    projection = np.array([[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])
    batch, outputs = chunked([(LOG2, 0, 0)], [(0, LOG2, 0)], [0], [0], [1])
    # Projected (1/8, 3/4, 1/8) against (1/4, 1/2, 1/4).
    expected = 0.5 * LOG2 + 0.5 * math.log(2 / 3)
    assert xtoken_pkl(batch, outputs, projection=projection) == near(expected)
    # The two leading entries, 1 and 0: (6/7, 1/7) against (2/3, 1/3).
    expected = 2 / 3 * math.log(7 / 9) + 1 / 3 * math.log(7 / 3)
    assert xtoken_pkl(batch, outputs, projection=projection, k=2) == near(expected)
    # In common are student 0 and teacher 1 (equal probability); the rest is (1/4, 1/4) on both sides.
    assert xtoken_gold(batch, outputs, projection=projection) == near(0.0)
    # A teacher of (2/3, 1/6, 1/6): 1/6 log(1/3), and 2/3, 1/6 against 1/4, 1/4.
    batch["teacher_logits"] = arr([(2 * LOG2, 0, 0)])
    expected = math.log(1 / 3) / 6 + (2 / 3 - 1 / 4) + (1 / 4 - 1 / 6)
    assert xtoken_gold(batch, outputs, projection=projection) == near(expected)
    # A half is no exact counterpart: nothing in common, sorted distance of everything.
    expected = sorted_distance([math.log(2 / 3), *[math.log(1 / 6)] * 2], [-LOG2, -2 * LOG2, -2 * LOG2])
    assert xtoken_gold(batch, outputs, projection=0.5 * np.eye(3)) == near(expected)
    # A larger student: teacher's 2 entries are common, the student's third faces 0.
    batch["teacher_logits"] = arr([(0, 0)])
    assert xtoken_gold(batch, outputs) == near(0.5 * LOG2 + 0.25)


def test_one_position_a_chunk_is_a_kl() -> None:
    batch, outputs = scored(113)
    batch["token_mask"] = np.ones((4, 6))
    batch["chunk_valid"] = np.ones((4, 6))
    batch["chunk_valid"][:, -1] = 0.0
    batch["student_chunk_ids"] = batch["teacher_chunk_ids"] = np.tile(np.arange(6), (4, 1))
    for temperature in (1.0, 1.7):
        expected = temperature**2 * forward_kl(batch, outputs, temperature=temperature)
        for oracle in (xtoken_pkl, xtoken_gold):
            assert oracle(batch, outputs, temperature=temperature) == near(expected)
            assert oracle(batch, outputs, temperature=temperature, projection=np.eye(5)) == near(expected)
    assert xtoken_pkl(*position_chunk((1e4, 0), (0, 1e4))) == near(1e4)
    assert xtoken_pkl(*position_chunk((0, 0), (LOG3, 0))) == near(FORWARD)
    assert xtoken_gold(*position_chunk((0, 0), (LOG3, 0))) == near(FORWARD)


def position_chunk(teacher: tuple[float, ...], student: tuple[float, ...]) -> tuple[Data, Data]:
    return chunked([student], [teacher], [0], [0], [1])


@pytest.mark.parametrize(("oracle", "settings"), [(xtoken_pkl, {"k": 4}), (xtoken_gold, {})])
def test_chunk_rules(oracle: Oracle, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(114)
    batch: Data = {
        "teacher_logits": rng.normal(size=(3, 7, 6)),
        "student_chunk_ids": rng.integers(-1, 4, (3, 5)),
        "teacher_chunk_ids": rng.integers(-1, 4, (3, 7)),
        "chunk_valid": (rng.random((3, 3)) < 0.8).astype(np.float64),
        "sample_mask": np.array([1.0, 0.5, 2.0]),
    }
    outputs: Data = {"logits": rng.normal(size=(3, 5, 4))}
    settings = settings | {"projection": rng.random((4, 6))}
    value = check_absence(oracle, batch, outputs, **settings)
    order = [2, 0, 1]
    permuted = {name: field[order] for name, field in batch.items()}
    assert oracle(permuted, {"logits": outputs["logits"][order]}, **settings) == near(value)
    moved = {**batch, "teacher_logits": batch["teacher_logits"] - 20}, {"logits": outputs["logits"] + 20}
    assert oracle(*moved, **settings) == pytest.approx(value, rel=1e-11)
    for fields, ids, name in ((batch, "teacher_chunk_ids", "teacher_logits"), (outputs, "student_chunk_ids", "logits")):
        fields[name] = fields[name].copy()
        fields[name][(batch[ids] < 0) | (batch[ids] > 2)] = NAN
    assert oracle(batch, outputs, **settings) == near(value)
