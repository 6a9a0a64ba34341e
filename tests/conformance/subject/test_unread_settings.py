"""Configs that are put together leave out what nothing reads beside the rest; the user's own are refused for it."""

from __future__ import annotations

import pytest

from loss_conformance import check_loss
from loss_conformance.conventions import conventions
from loss_conformance.subject.load import load_subject
from loss_conformance.subject.reference import reference_subject
from loss_conformance.subject.subject import TargetError
from loss_conformance.verdict import Status
from loss_reference import ConfigError, LabelSmoothedCELoss, NLLLoss, UnlikelihoodLoss


def test_what_a_change_leaves_unread_is_left_out():
    subject = load_subject(UnlikelihoodLoss, config={"candidates": "repeated_ngrams", "ngram": 2})
    assert subject.rebuild({"ngram": 3}).ngram == 3
    assert subject.rebuild({"alpha": 0.0}).config == {"alpha": 0.0}


def test_a_change_that_nothing_reads_is_refused():
    with pytest.raises(ConfigError, match="max_length=4 has no effect beside aggregation='token_mean'"):
        load_subject(NLLLoss).rebuild({"max_length": 4})
    with pytest.raises(TargetError, match="max_length=4 has no effect"):
        load_subject(NLLLoss, config={"max_length": 4})


def test_end_points_of_a_loss_with_a_setting_that_they_do_not_read():
    report = check_loss(
        LabelSmoothedCELoss, config={"spread": "others"}, checks=("option_end_points",), profile="quick"
    )
    assert [verdict.status for verdict in report.verdicts] == [Status.PASSED]


def test_a_setting_of_the_users_that_a_reference_does_not_read():
    settings = {"max_length": 512, "kl_type": "k1", "reference_policy_kl_penalty": 0.0}
    assert reference_subject("nll", settings).config == {}
    assert reference_subject("grpo", settings).config == {"reference_policy_kl_penalty": 0.0}
    found = [loss.aggregation for _, loss in conventions(NLLLoss, {"max_length": 512})]
    assert found[0] == "token_mean"
    assert set(found) == {"token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "fixed"}
