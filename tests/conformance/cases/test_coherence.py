"""The fields of a drawn batch agree with one another, in every situation."""

import pytest
import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.plan import SITUATIONS
from tests.conformance.cases.everything import cases, mixed_cases, slot

FLOAT32 = torch.finfo(torch.float32).eps

TOKEN_MASK = slot("token_mask")
SAMPLE_MASK = slot("sample_mask")
LOGITS = slot("logits")
LOGPROBS = slot("next_token_logprobs")
INPUT_IDS = slot("input_ids")
TEACHER = slot("teacher_logits")
TOP_K_LOGITS = slot("teacher_topk_logits")
TOP_K_INDICES = slot("teacher_topk_indices")

every_situation = pytest.mark.parametrize("situation", SITUATIONS)


def predicted(case: Case) -> torch.Tensor:
    """The tokens that positions 0, 1, … predict, [B, S-1, 1]."""
    return case.tensor(INPUT_IDS)[:, 1:].unsqueeze(-1)


@every_situation
def test_there_are_plans_to_judge(situation: str) -> None:
    assert len({case.plan for case in mixed_cases(situation)}) >= 20


@every_situation
def test_masks_say_what_is_trained(situation: str) -> None:
    for case in mixed_cases(situation):
        assert torch.equal(case.tensor(TOKEN_MASK), case.trained.to(torch.float64))
        assert torch.equal(case.tensor(SAMPLE_MASK), case.rows)
        assert not case.trained[:, 0].any()


@every_situation
def test_lengths_end_right_after_the_last_trained_token(situation: str) -> None:
    for case in mixed_cases(situation):
        for length, trained in zip(case.tensor(slot("input_lengths")).tolist(), case.trained, strict=True):
            last = max([0, *trained.nonzero().flatten().tolist()])
            assert length == last + 1


@every_situation
def test_log_probabilities_are_those_of_the_logits_at_the_next_token(situation: str) -> None:
    for case in mixed_cases(situation):
        exact = case.tensor(LOGITS)[:, :-1].log_softmax(-1).gather(-1, predicted(case)).squeeze(-1)
        assert bool((case.tensor(LOGPROBS) <= 0).all())
        torch.testing.assert_close(case.tensor(LOGPROBS), exact, rtol=FLOAT32, atol=0)


@every_situation
def test_the_last_position_of_the_logits_says_nothing_new(situation: str) -> None:
    for case in mixed_cases(situation):
        assert not case.active(LOGITS)[:, -1].any()


@every_situation
def test_no_policy_is_surer_than_certain(situation: str) -> None:
    for case in mixed_cases(situation):
        for name in ("reference_policy_logprobs", "prev_logprobs", "generation_logprobs"):
            logprobs = case.tensor(slot(name))
            assert bool((logprobs <= 0).all())
            assert bool(torch.isfinite(logprobs).all())


@every_situation
def test_a_token_that_is_predicted_is_possible(situation: str) -> None:
    for case in mixed_cases(situation):
        for logits in (case.tensor(LOGITS), case.tensor(TEACHER)):
            assert bool(torch.isfinite(logits[:, :-1].gather(-1, predicted(case))).all())
            assert bool((torch.isfinite(logits) | torch.isneginf(logits)).all())


@every_situation
def test_impossible_tokens_occur_in_their_regime_alone(situation: str) -> None:
    for case in mixed_cases(situation):
        impossible = torch.isneginf(case.tensor(LOGITS)).sum(-1)
        assert impossible.unique().tolist() == [int(situation == "never_chosen")]


@every_situation
def test_teacher_top_k_is_the_top_of_the_teacher(situation: str) -> None:
    for case in mixed_cases(situation):
        logits, indices = case.tensor(TOP_K_LOGITS), case.tensor(TOP_K_INDICES)
        teacher = case.tensor(TEACHER)
        k = logits.shape[-1]
        assert bool(torch.isfinite(logits).all())
        assert bool((logits.diff(dim=-1) <= 0).all())
        assert torch.equal(logits, teacher.gather(-1, indices))
        assert torch.equal(logits, teacher.sort(dim=-1, descending=True).values[..., :k])
        assert bool((indices.sort(dim=-1).values.diff(dim=-1) > 0).all())


@every_situation
def test_pairs_name_two_different_rows(situation: str) -> None:
    for case in mixed_cases(situation):
        for name in ("positive_pairs", "negative_pairs"):
            pairs = case.tensor(slot(name))
            assert int(pairs.min()) >= 0
            assert int(pairs.max()) < len(case.rows)
            assert bool((pairs[:, 0] != pairs[:, 1]).all())


@every_situation
def test_negative_pairs_start_at_the_anchors_of_the_positive_ones(situation: str) -> None:
    for case in mixed_cases(situation):
        assert torch.equal(case.tensor(slot("positive_pairs"))[:, 0], case.tensor(slot("negative_pairs"))[:, 0])


@every_situation
def test_global_counts_are_never_below_those_of_the_batch(situation: str) -> None:
    for case in mixed_cases(situation):
        assert float(case.tensor(slot("global_valid_toks"))) - float(case.weight.sum()) in (0.0, 4.0)
        assert float(case.tensor(slot("global_valid_seqs"))) - float(case.rows.sum()) in (0.0, 4.0)


@every_situation
def test_rows_of_a_pair_weigh_the_same(situation: str) -> None:
    for case in cases(situation, True):
        assert torch.equal(case.rows[0::2], case.rows[1::2])


@every_situation
def test_every_number_survives_float32(situation: str) -> None:
    for case in mixed_cases(situation):
        for key, tensor in case.tensors.items():
            there_and_back = tensor.to(torch.float32).to(tensor.dtype)
            assert torch.equal(there_and_back, tensor), key


@every_situation
def test_whole_numbers_stay_in_range(situation: str) -> None:
    for case in mixed_cases(situation):
        vocabulary = case.tensor(LOGITS).shape[-1]
        for of_tokens in (INPUT_IDS, TOP_K_INDICES):
            assert int(case.tensor(of_tokens).min()) >= 0
            assert int(case.tensor(of_tokens).max()) < vocabulary
        assert set(case.tensor(slot("labels")).tolist()) <= {0, 1}


@pytest.mark.parametrize("situation", [s for s in SITUATIONS if s not in ("all_masked", "all_absent")])
def test_the_first_row_always_trains(situation: str) -> None:
    for case in mixed_cases(situation):
        assert case.trained[0].any()
        assert case.rows[0] == 1.0
