"""Which entries of a case may matter, and its changes of precision."""

import pytest
import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.describe import describe_case
from loss_conformance.cases.slot import Schema
from tests.conformance.cases.everything import cases, slot

TRAINED = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]], dtype=torch.bool)
WEIGHTS = torch.tensor([1.0, 0.0], dtype=torch.float64)


def small(*names: str) -> Case:
    """Two rows of four tokens, the second row of weight 0."""
    sizes = {"B": 2, "S": 4, "S-1": 3, "V": 2, "K": 1, "D": 2, "N": 1}
    slots = tuple(slot(name) for name in names)
    tensors = {s.key: torch.zeros([sizes[letter] for letter in s.shape], dtype=torch.float64) for s in slots}
    return Case(Schema(slots), tensors, TRAINED, WEIGHTS)


@pytest.mark.parametrize(
    ("name", "active"),
    [
        ("prev_logprobs", [[0, 1, 0, 1], [0, 0, 0, 0]]),  # entry t speaks of token t
        ("next_token_logprobs", [[1, 0, 1], [0, 0, 0]]),  # entry t speaks of token t + 1
        ("sample_mask", [1, 0]),  # rows alone
        ("global_valid_toks", 1),  # neither
    ],
)
def test_active_entries(name: str, active: object) -> None:
    assert small(name).active(slot(name)).to(torch.int64).tolist() == active


def test_active_logits_are_shifted_and_their_last_position_speaks_of_nothing() -> None:
    active = small("logits").active(slot("logits"))
    assert active[..., 0].to(torch.int64).tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
    assert torch.equal(active[..., 0], active[..., 1])


def test_the_weight_of_a_token_is_that_of_its_row() -> None:
    case = Case(Schema(()), {}, TRAINED, torch.tensor([0.5, 2.0], dtype=torch.float64))
    assert case.weight.tolist() == [[0, 0.5, 0, 0.5], [0, 2, 2, 0]]


def test_terms_are_the_entries_of_the_largest_input() -> None:
    assert small("logits", "prev_logprobs", "sample_mask").terms == 16
    assert small("sample_mask").terms == 2
    assert small().terms == 1


def test_cast_changes_floating_point_tensors_and_no_others() -> None:
    case = cases("typical")[0]
    half = case.cast(torch.bfloat16)
    for s in case.slots():
        assert half.tensor(s).dtype is (torch.int64 if s.integer else torch.bfloat16)
        assert case.tensor(s).dtype is (torch.int64 if s.integer else torch.float64)


def test_a_changed_case_leaves_the_old_one_alone() -> None:
    case = cases("typical")[0]
    key = slot("advantages").key
    changed = case.with_tensors({key: torch.zeros(1)})
    assert changed.tensors[key].tolist() == [0.0]
    assert case.tensors[key].shape == case.trained.shape
    assert key not in case.without(key).tensors
    assert key in case.tensors


def test_in_words() -> None:
    case = small("next_token_logprobs", "token_mask", "sample_mask")
    assert describe_case(case, 12, 9) == (
        "B=2 S=4, token_mask=[[0,0,0,0],[0,0,0,0]], sample_mask=[0,0]   (your own batch, shrunk in 9 steps)"
    )
    drawn = describe_case(cases("full")[0], 12)
    assert drawn.startswith("B=")
    assert drawn.endswith("(situation full, seed 12)")
