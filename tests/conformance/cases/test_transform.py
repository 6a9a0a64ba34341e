"""The transformations laws are made of change what they say, and nothing else."""

import pytest
import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Schema, Slot
from loss_conformance.cases.transform import (
    append_masked_rows,
    append_masked_token,
    group_size,
    other_content,
    scramble,
    select_rows,
    take_rows,
)
from tests.conformance.cases.everything import SLOTS, cases, slot

MASKED = ("typical", "holes", "absent_rows", "never_chosen")
CONTENT = [s for s in SLOTS if s.role not in ("mask", "count", "lengths", "pairs")]
REAL = [s for s in CONTENT if not s.integer]
PARTLY_MASKED = [case for situation in MASKED for case in cases(situation)[:8]]


def same(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one == other) | (one.isnan() & other.isnan())


def identical(one: Case, other: Case) -> bool:
    return (
        one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(one.tensors[key], other.tensors[key]) for key in one.tensors)
        and torch.equal(one.trained, other.trained)
        and torch.equal(one.rows, other.rows)
    )


@pytest.mark.parametrize("changed", REAL, ids=lambda s: s.key)
def test_scramble_changes_every_inactive_entry_and_no_other(changed: Slot) -> None:
    for case in PARTLY_MASKED:
        after = scramble(case, changed, None)
        assert torch.equal(same(after.tensor(changed), case.tensor(changed)), case.active(changed))
        assert identical(after.with_tensors({changed.key: case.tensor(changed)}), case)


@pytest.mark.parametrize("fill", [1e10, float("-inf"), float("nan")])
def test_scramble_fills_inactive_entries_with_one_number(fill: float) -> None:
    logprobs = slot("next_token_logprobs")
    for case in PARTLY_MASKED:
        after, active = scramble(case, logprobs, fill).tensor(logprobs), case.active(logprobs)
        assert torch.equal(after[active], case.tensor(logprobs)[active])
        assert bool(same(after[~active], torch.tensor(fill, dtype=torch.float64)).all())


@pytest.mark.parametrize("changed", CONTENT, ids=lambda s: s.key)
def test_other_content_is_legal(changed: Slot) -> None:
    for case in PARTLY_MASKED:
        before = case.tensor(changed)
        after = other_content(changed, before)
        assert after.shape == before.shape
        assert after.dtype is before.dtype
        assert bool(torch.isfinite(after).all())


@pytest.mark.parametrize("changed", [s for s in CONTENT if s.integer], ids=lambda s: s.key)
def test_other_whole_numbers_stay_between_zero_and_the_largest(changed: Slot) -> None:
    for case in PARTLY_MASKED:
        after = other_content(changed, case.tensor(changed))
        assert int(after.min()) >= 0
        assert int(after.max()) <= int(case.tensor(changed).max())


def test_other_whole_numbers_differ_everywhere() -> None:
    before = torch.tensor([[0, 1, 4], [2, 0, 3]])
    assert bool((other_content(slot("input_ids"), before) != before).all())


def test_other_log_probabilities_are_not_positive() -> None:
    logprobs = slot("next_token_logprobs")
    for case in PARTLY_MASKED:
        assert float(other_content(logprobs, case.tensor(logprobs)).max()) <= 0.0


def test_probabilities_stay_probabilities() -> None:
    some = Slot("batch", "p", "probabilities", "probabilities", ("B",))
    before = torch.linspace(0, 1, 9, dtype=torch.float64)
    after = other_content(some, before)
    assert float(after.min()) >= 0
    assert float(after.max()) <= 1
    assert bool((after != before).all())


@pytest.mark.parametrize("paired", [False, True])
def test_select_rows_undone_by_the_inverse_order(paired: bool) -> None:
    for case in cases("typical", paired):
        order = torch.randperm(len(case.rows), generator=torch.Generator().manual_seed(0))
        assert identical(select_rows(select_rows(case, order), order.argsort()), case)


def test_select_rows_moves_rows_and_lets_pairs_follow_them() -> None:
    case = max(cases("typical"), key=lambda c: len(c.rows))
    order = torch.arange(len(case.rows)).roll(1)
    moved = select_rows(case, order)
    embeddings, pairs = slot("embeddings"), slot("positive_pairs")
    assert torch.equal(moved.tensor(embeddings), case.tensor(embeddings)[order])
    assert torch.equal(moved.trained, case.trained[order])
    # The pairs point at the same embeddings as before.
    assert torch.equal(moved.tensor(embeddings)[moved.tensor(pairs)], case.tensor(embeddings)[case.tensor(pairs)])


def test_take_rows_keeps_these_rows_alone() -> None:
    case = max(cases("typical"), key=lambda c: len(c.rows))
    taken = take_rows(case, torch.tensor([2, 0]))
    for s in case.slots():
        whole = case.tensor(s)
        expected = whole[[2, 0]] if s.row_axis == 0 else whole
        assert torch.equal(taken.tensor(s), expected), s.key
    assert torch.equal(taken.rows, case.rows[[2, 0]])


def test_append_masked_token_adds_one_inactive_entry_along_tokens() -> None:
    for case in PARTLY_MASKED:
        grown = append_masked_token(case)
        assert torch.equal(grown.trained[:, :-1], case.trained)
        assert not grown.trained[:, -1].any()
        for s in (s for s in case.slots() if s.token_axis is not None):
            size = case.tensor(s).shape[s.token_axis]
            assert grown.tensor(s).shape[s.token_axis] == size + 1
            assert torch.equal(grown.tensor(s).narrow(s.token_axis, 0, size), case.tensor(s))
            assert torch.equal(grown.active(s).narrow(s.token_axis, 0, size), case.active(s))
            assert not grown.active(s).narrow(s.token_axis, size, 1).any()
        for s in (s for s in case.slots() if s.token_axis is None):
            assert torch.equal(grown.tensor(s), case.tensor(s))


def test_an_appended_token_is_masked_in_the_mask_too() -> None:
    for case in PARTLY_MASKED:
        assert not append_masked_token(case).tensor(slot("token_mask"))[:, -1].any()


@pytest.mark.parametrize("paired", [False, True])
def test_append_masked_rows_adds_a_group_without_weight(paired: bool) -> None:
    for case in cases("typical", paired):
        grown, rows = append_masked_rows(case), len(case.rows)
        assert len(grown.rows) == rows + group_size(case) == rows + 1 + int(paired)
        assert not grown.rows[rows:].any()
        assert not grown.tensor(slot("sample_mask"))[rows:].any()
        for s in case.slots():
            there = grown.tensor(s)[:rows] if s.row_axis == 0 else grown.tensor(s)
            assert torch.equal(there, case.tensor(s)), s.key
            assert torch.equal(grown.active(s)[:rows] if s.row_axis == 0 else grown.active(s), case.active(s)), s.key


def test_group_size() -> None:
    plain = Case(Schema(()), {}, torch.zeros(2, 2, dtype=torch.bool), torch.ones(2))
    assert group_size(plain) == 1
    assert group_size(Case(Schema((), group=2), {}, plain.trained, plain.rows)) == 2
