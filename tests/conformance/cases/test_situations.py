"""Each situation is what its name says."""

import pytest
import torch

from loss_conformance.cases.build import build
from loss_conformance.cases.plan import SITUATIONS
from loss_conformance.cases.slot import Schema
from tests.conformance.cases.everything import SLOTS, cases, pool, slot

LOGPROBS = slot("next_token_logprobs")


def test_every_situation_is_looked_at_here() -> None:
    """A new situation needs a line below."""
    assert len(SITUATIONS) == 17


def test_on_policy_is_the_policy_itself() -> None:
    for case in cases("on_policy"):
        for name in ("reference_policy_logprobs", "prev_logprobs", "generation_logprobs"):
            assert torch.equal(case.tensor(slot(name))[:, 1:], case.tensor(LOGPROBS))
        assert torch.equal(case.tensor(slot("teacher_logits")), case.tensor(slot("logits")))
        assert torch.equal(case.tensor(slot("returns")), case.tensor(slot("values", "batch")))


def test_off_policy_is_far() -> None:
    far = [
        (case.tensor(slot("prev_logprobs"))[:, 1:] - case.tensor(LOGPROBS)).abs().amax() for case in cases("off_policy")
    ]
    near = [
        (case.tensor(slot("prev_logprobs"))[:, 1:] - case.tensor(LOGPROBS)).abs().amax() for case in cases("typical")
    ]
    assert float(torch.stack(far).median()) > 3.0
    assert float(torch.stack(near).max()) < 1.0


def test_saturated_reaches_where_exponentials_fail() -> None:
    assert max(float(case.tensor(LOGPROBS).abs().amax()) for case in cases("saturated")) > 88.0
    assert max(float(case.tensor(slot("rewards", "model_outputs")).abs().amax()) for case in cases("saturated")) > 88.0


def test_certain_means_probability_one() -> None:
    for case in cases("certain"):
        assert bool((case.tensor(LOGPROBS).exp() == 1.0).all())


def test_ties_are_exact() -> None:
    along_an_axis = 0
    for case in cases("ties"):
        logits, embeddings = case.tensor(slot("logits")), case.tensor(slot("embeddings"))
        assert logits.unique().numel() == 1
        assert bool((embeddings == embeddings[0]).all())
        assert case.tensor(slot("advantages")).unique().tolist() == [1.0]
        assert case.tensor(slot("rewards", "model_outputs")).unique().tolist() == [0.0]
        along_an_axis += int((embeddings[0] != 0).sum() == 1)
    assert along_an_axis >= 3


def test_zero_advantage() -> None:
    for case in cases("zero_advantage"):
        assert not case.tensor(slot("advantages")).any()


def test_full_trains_everything_but_the_first_token() -> None:
    for case in cases("full"):
        assert case.trained[:, 1:].all()


def test_holes_lie_inside_a_row() -> None:
    for case in cases("holes"):
        there = case.trained[0].nonzero().flatten().tolist()
        assert there[-1] - there[0] + 1 > len(there)


def test_one_token() -> None:
    assert {case.trained.shape[1] for case in cases("one_token")} == {2}
    assert all(case.trained[:, 1].all() for case in cases("one_token"))


@pytest.mark.parametrize(("paired", "rows"), [(False, 1), (True, 2)])
def test_one_row_is_one_row_or_one_pair(paired: bool, rows: int) -> None:
    without_indices = Schema(tuple(s for s in SLOTS if s.role != "pairs"), 1 + paired)
    assert {len(build(without_indices, plan).rows) for plan in pool()["one_row"]} == {rows}


def test_indices_of_rows_need_two_rows() -> None:
    assert {len(case.rows) for case in cases("one_row")} == {2}


@pytest.mark.parametrize("paired", [False, True])
def test_square_has_as_many_rows_as_tokens_or_predictions(paired: bool) -> None:
    beyond = [case.trained.shape[1] - case.trained.shape[0] for case in cases("square", paired)]
    assert set(beyond) == {0, 1}


def test_bare_leaves_the_global_counts_out() -> None:
    from dataclasses import replace

    optional = Schema(tuple(replace(s, optional=True) for s in SLOTS))
    for plan in pool()["bare"]:
        case = build(optional, plan)
        assert {s.name for s in SLOTS} - {s.name for s in case.slots()} == {"global_valid_toks", "global_valid_seqs"}


def test_absent_rows_have_weight_zero_or_a_fraction() -> None:
    weights = {float(weight) for case in cases("absent_rows") for weight in case.rows}
    assert weights == {0.0, 0.5, 1.0, 1.5}


def test_all_masked_trains_nothing() -> None:
    for case in cases("all_masked"):
        assert not case.trained.any()
    assert {float(weight) for case in cases("all_masked") for weight in case.rows} == {0.0, 1.0}


def test_all_absent_has_trained_tokens_and_no_row_that_counts() -> None:
    for case in cases("all_absent"):
        assert case.trained.any()
        assert not case.rows.any()


def test_typical_and_never_chosen_have_padding() -> None:
    for situation in ("typical", "never_chosen"):
        assert any(bool((~case.trained[:, 1:]).any()) for case in cases(situation))
