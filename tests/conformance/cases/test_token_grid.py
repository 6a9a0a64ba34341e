"""Inputs of every alignment meet on one grid of tokens."""

import pytest
import torch

from loss_conformance.cases.build import build
from loss_conformance.cases.case import Case
from loss_conformance.cases.plan import Plan
from loss_conformance.cases.slot import BATCH, MODEL_OUTPUTS, Schema, Slot, vocabulary_slot
from loss_conformance.cases.token_grid import (
    of_tokens,
    on_policy,
    policy_logprobs,
    policy_slopes,
    rows_of_equal_tokens,
)

ROWS, TOKENS = 3, 5


def slot(place: str, name: str) -> Slot:
    found = vocabulary_slot(place, name)
    assert found is not None
    return found


MASK = slot(BATCH, "token_mask")
IDS = slot(BATCH, "input_ids")
OLD = slot(BATCH, "prev_logprobs")
REWARDS = slot(BATCH, "rewards")
LOGPROBS = slot(MODEL_OUTPUTS, "next_token_logprobs")
LOGITS = slot(MODEL_OUTPUTS, "logits")


def drawn(*slots: Slot, mask: str = "ragged") -> Case:
    return build(Schema(slots), Plan("typical", "typical", ROWS, TOKENS, 4, 2, 3, 2, mask, "ones", True, 5))


def test_entry_t_of_the_grid_speaks_of_token_t() -> None:
    case = drawn(MASK, OLD, LOGPROBS)
    old, new = (of_tokens(case, s, case.tensor(s)) for s in (OLD, LOGPROBS))
    assert old.shape == new.shape == (ROWS, TOKENS)
    assert torch.equal(old, case.tensor(OLD))
    assert torch.equal(new[:, 1:], case.tensor(LOGPROBS))
    assert not bool(new[:, 0].any())


def test_one_number_per_row_speaks_of_all_its_tokens() -> None:
    case = drawn(MASK, REWARDS)
    grid = of_tokens(case, REWARDS, case.tensor(REWARDS))
    assert torch.equal(grid, case.tensor(REWARDS)[:, None].expand(ROWS, TOKENS))


def test_logits_and_log_probabilities_tell_of_the_same_policy() -> None:
    case = drawn(MASK, IDS, LOGPROBS, LOGITS)
    logits = drawn(MASK, IDS, LOGITS)
    known = case.with_tensors({LOGITS.key: logits.tensor(LOGITS), IDS.key: logits.tensor(IDS)})
    of_logits = policy_logprobs(logits)
    assert of_logits is not None
    expected = known.tensor(LOGITS)[:, :-1].log_softmax(-1).gather(-1, known.tensor(IDS)[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(of_logits[:, 1:], expected)


@pytest.mark.parametrize("route", [(LOGPROBS,), (IDS, LOGITS)], ids=["logprobs", "logits"])
def test_on_policy_moves_the_others_to_the_trained_one(route: tuple[Slot, ...]) -> None:
    case = drawn(MASK, OLD, *route)
    moved = on_policy(case)
    own = policy_logprobs(case)
    assert moved is not None
    assert own is not None
    assert torch.equal(moved.tensor(OLD)[:, 1:], own[:, 1:])
    assert torch.equal(moved.tensor(OLD)[:, 0], case.tensor(OLD)[:, 0])
    assert not torch.equal(moved.tensor(OLD), case.tensor(OLD))


def test_without_a_policy_there_is_nothing_to_be_on() -> None:
    assert on_policy(drawn(MASK, OLD)) is None


def test_slopes_of_sampled_tokens() -> None:
    case = drawn(MASK, IDS, LOGITS)
    gradient = torch.arange(case.tensor(LOGITS).numel(), dtype=torch.float64).reshape(case.tensor(LOGITS).shape)
    slopes = policy_slopes(case, {LOGITS.key: gradient})
    assert slopes is not None
    token = case.tensor(IDS)[1, 2]
    assert slopes[1, 2] == gradient[1, 1, token]


def test_equal_tokens_differ_in_the_length_of_their_rows_alone() -> None:
    case = drawn(MASK, IDS, OLD, REWARDS, LOGPROBS)
    equal = rows_of_equal_tokens(case)
    assert equal is not None
    assert equal.tensor(MASK).tolist() == [[0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0]]
    assert torch.equal(equal.tensor(MASK) != 0, equal.trained)
    for one in (IDS, OLD, REWARDS, LOGPROBS):
        assert len(equal.tensor(one).unique()) == 1
    row, token = (int(i) for i in case.trained.nonzero()[0])
    assert equal.tensor(OLD)[0, 0] == case.tensor(OLD)[row, token]
    assert equal.tensor(LOGPROBS)[0, 0] == case.tensor(LOGPROBS)[row, token - 1]


def test_rows_of_equal_tokens_are_whole() -> None:
    lengths = slot(BATCH, "input_lengths")
    equal = rows_of_equal_tokens(drawn(MASK, lengths, LOGPROBS))
    assert equal is not None
    assert equal.tensor(lengths).tolist() == [TOKENS] * ROWS


def test_no_equal_tokens_where_nothing_is_trained_or_an_axis_is_unknown() -> None:
    assert rows_of_equal_tokens(drawn(MASK, LOGPROBS, mask="none")) is None
    assert rows_of_equal_tokens(drawn(MASK, slot(MODEL_OUTPUTS, "embeddings"))) is None
