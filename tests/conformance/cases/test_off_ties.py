"""The case beside a case: the trainable numbers moved a little, everything else as it was."""

import torch

from loss_conformance.cases.off_ties import off_ties
from tests.conformance.cases.everything import cases, slot


def test_trainable_numbers_move_by_about_a_thousandth_and_nothing_else_moves() -> None:
    for case in cases("ties"):
        moved = off_ties(case)
        for s in case.slots():
            step = (moved.tensor(s) - case.tensor(s)).abs()
            assert bool((step > 0).all()) is s.trainable
            assert float(step.max()) < 1e-2
        assert torch.equal(moved.trained, case.trained)


def test_no_ties_are_left() -> None:
    for case in cases("ties"):
        embeddings = off_ties(case).tensor(slot("embeddings"))
        assert embeddings.unique().numel() == embeddings.numel()


def test_log_probabilities_stay_log_probabilities() -> None:
    for case in cases("certain"):
        assert float(off_ties(case).tensor(slot("next_token_logprobs")).max()) <= 0


def test_always_the_same() -> None:
    case = cases("ties")[0]
    one, other = off_ties(case), off_ties(case)
    assert all(torch.equal(one.tensors[key], other.tensors[key]) for key in one.tensors)
