"""A baseline, declared or given by name or as another loss, is held to at other settings as well."""

from __future__ import annotations

import pytest
import torch.nn.functional as F

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from loss_reference import Contract, Option

SMOOTHED = Contract(family="preference", options={"label_smoothing": Option(values=(0.0, 0.1))})


def right(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, label_smoothing=0.0):
    x = 0.1 * (policy_chosen_logps - ref_chosen_logps - policy_rejected_logps + ref_rejected_logps)
    return ((1 - label_smoothing) * F.softplus(-x) + label_smoothing * F.softplus(x)).mean()


def wrong(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, label_smoothing=0.0):
    x = 0.1 * (policy_chosen_logps - ref_chosen_logps - policy_rejected_logps + ref_rejected_logps)
    return (F.softplus(-x) + label_smoothing * F.softplus(x)).mean()


def said_of(loss, contract, baseline):
    report = check_loss(loss, contract=contract, baseline=baseline, checks=("baseline",), seed=0, device="cpu")
    return {verdict.check: verdict.status for verdict in report.verdicts}["baseline_settings"]


@pytest.mark.parametrize("baseline", ["dpo", right])
def test_a_branch_behind_a_setting_is_compared(baseline):
    assert said_of(right, SMOOTHED, baseline) is Status.PASSED
    assert said_of(wrong, SMOOTHED, baseline) is Status.FAILED


def test_a_setting_the_contract_does_not_list_is_advice():
    assert said_of(wrong, Contract(family="preference"), "dpo") is Status.ADVICE
