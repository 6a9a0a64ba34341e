"""Advice that was given to correct losses without any contract, and must not be."""

import pytest
import torch
import torch.nn.functional as F

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from loss_reference import ClipCovLoss, Contract, Field, KLUnbiasedLoss, LiPOLoss, ORPOLoss, TPOLoss
from tests.faults.sound_by_name import (
    barlow,
    differentiated_inside,
    distilled_from_tokens,
    masked_next_token,
    sampled_kl,
)
from tests.faults.sound_choices import (
    FocalByConfidence,
    MarginBradleyTerry,
    OrdinalRegression,
    PenalisedLogits,
    SetPrediction,
    clipped_critic,
    varifocal,
)


def dynamic_fine_tuning(logits, labels):
    """-sg(p) log p: smooth, and its gradient is on purpose not its derivative."""
    mask = labels != -100
    terms = F.cross_entropy(torch.where(mask[..., None], logits, 0.0).transpose(1, 2), labels, reduction="none")
    return torch.where(mask, terms * torch.exp(-terms.detach()), 0.0).sum() / mask.sum().clamp(min=1)


def in_batch_negatives(query, positive):
    return F.cross_entropy(query @ positive.T / 8, torch.arange(len(query), device=query.device))


@pytest.mark.parametrize(
    ("loss", "check"),
    [
        (dynamic_fine_tuning, "no_half_precision_inside"),
        (masked_next_token, "empty_batch"),  # all rows absent says nothing to a loss that takes no row mask
        (distilled_from_tokens, "unknown_token"),  # labels that only say which tokens count
        (sampled_kl, "lower_bound"),
        (in_batch_negatives, "row_independence"),
        (in_batch_negatives, "duplicate_rows"),
        (barlow, "row_independence"),
        (differentiated_inside, "graph_released"),  # torch.func refuses to be watched
        (clipped_critic, "finite_difference"),  # smooth at a tie, where backward gives each of two equals half
        (clipped_critic, "namesake"),
        (OrdinalRegression, "wanted_direction"),  # of ordered classes the score of the label itself falls
        (OrdinalRegression, "finite_value"),  # no softmax, so no filtered vocabulary
        (FocalByConfidence, "continuous"),
        (SetPrediction, "continuous"),
        (SetPrediction, "absent_rows"),
        (MarginBradleyTerry, "namesake"),
        (PenalisedLogits, "logit_shift"),
        (varifocal, "option_effect"),  # alpha is for targets of 0, and none is drawn
        (varifocal, "positive_weight_spares_negatives"),  # alpha is a weight of negatives
    ],
)
def test_not_advised(loss, check):
    (verdict,) = check_loss(loss, profile="quick", checks=(check,)).verdicts
    assert verdict.status in (Status.PASSED, Status.NOT_APPLICABLE), verdict


def nan_gradients(input, target):
    """Finite, with a gradient that is nan in every entry."""
    return (input - target).square().mean() + (input * 0).sqrt().sum()


def test_a_gradient_without_a_finite_entry_does_not_stop_a_check():
    report = check_loss(nan_gradients, profile="quick", checks=("finite_gradient", "float32_accuracy"))
    found = {verdict.check: verdict for verdict in report.verdicts}
    assert found["finite_gradient"].status is Status.FAILED
    assert "the check itself failed" not in found["float32_accuracy"].reason


def velocity(pred, target, snr, gamma=5.0):
    """Weighted by min(snr, gamma): a cap above every number that is drawn."""
    snr = snr.detach().clamp(min=0)
    return (snr.clamp(max=gamma) / (snr + 1) * (pred - target.detach()).square().mean(-1)).mean()


SNR = Contract(
    fields={
        "pred": Field("values", "B D", trainable=True),
        "target": Field("values", "B D", trainable=False),
        "snr": Field("values", "B", trainable=False),
    }
)


def test_a_cap_above_every_constant_that_is_drawn_has_an_effect():
    (verdict,) = check_loss(velocity, contract=SNR, profile="quick", checks=("option_effect",)).verdicts
    assert verdict.status is Status.PASSED, verdict


@pytest.mark.parametrize("seed", [5, 15])
def test_an_input_that_breaks_ties_of_a_rare_choice_has_an_effect(seed):
    (verdict,) = check_loss(ClipCovLoss, profile="quick", seed=seed, checks=("input_effect",)).verdicts
    assert verdict.status is Status.PASSED, verdict


@pytest.mark.parametrize(
    ("loss", "check", "profile", "seed"),
    [
        (
            LiPOLoss,
            "float32_accuracy",
            "quick",
            15,
        ),  # certain tokens: the softmax leaves next to nothing of the gradient
        (ORPOLoss, "float32_accuracy", "quick", 8),  # log(1 - p) of a p that the softmax rounded
        (KLUnbiasedLoss, "extreme_inputs", "standard", 0),  # a difference of 0 times a ratio of 1e33
    ],
)
def test_what_rounding_of_the_inputs_explains_is_no_loss_of_digits(loss, check, profile, seed):
    (verdict,) = check_loss(loss, profile=profile, seed=seed, checks=(check,)).verdicts
    assert verdict.status is Status.PASSED, verdict


def detached_ratio(log_prob, old_log_prob, advantages):
    """REINFORCE off policy: the ratio is a weight, and constant on purpose."""
    ratio = (log_prob.detach() - old_log_prob.detach()).clamp(max=0.0).exp()
    return -(ratio * advantages.detach() * log_prob).mean()


PARTLY_DECLARED = Contract(
    level="token",
    fields={
        "log_prob": Field("logprobs", "B T", trainable=True),
        "old_log_prob": Field("logprobs", "B T", trainable=False),
        "advantages": Field("advantages", "B T", trainable=False),
    },
)


def test_what_a_loss_detaches_itself_is_no_failure_where_no_family_is_promised():
    (verdict,) = check_loss(
        detached_ratio, contract=PARTLY_DECLARED, profile="quick", checks=("finite_difference",)
    ).verdicts
    assert verdict.status is Status.ADVICE, verdict
    assert "surrogate_gradient=True" in verdict.failure.declare


def log_of_a_number(log_prob, old_log_prob, advantages):
    """The ratio taken out of the graph by a way nobody takes on purpose."""
    return -(log_prob * advantages.detach()).mean() + log_prob.square().mean().item() * log_prob.new_ones(())


def test_what_it_does_not_detach_is_a_failure():
    (verdict,) = check_loss(
        log_of_a_number, contract=PARTLY_DECLARED, profile="quick", checks=("finite_difference",)
    ).verdicts
    assert verdict.status is Status.FAILED, verdict


def test_answers_of_other_lengths_in_groups_of_three_are_not_alike():
    (verdict,) = check_loss(TPOLoss, profile="thorough", checks=("smoothing_keeps_the_total",)).verdicts
    assert verdict.status is not Status.FAILED, verdict
