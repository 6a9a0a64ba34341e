"""What is guessed about a loss that promises nothing: from the fields it reads, and from changing one row at a time."""

from typing import Any

import pytest

from loss_conformance.bench import Bench
from loss_conformance.facts.coupling import Coupling
from loss_conformance.subject.load import load_subject
from tests.conformance.facts import small_losses as small

SUPERVISED, PREFERENCE = "supervised", "preference"

EXPECTED = [
    (small.TokenMean, SUPERVISED, None, "local"),
    (small.GlobalTokenMean, SUPERVISED, None, "global"),
    (small.FromLogits, SUPERVISED, None, "local"),
    (small.SequenceSum, SUPERVISED, None, "global"),
    (small.WithReference, PREFERENCE, "pair", "local"),
    (small.ReferenceFree, PREFERENCE, "pair", "local"),
    (small.ReferenceFreeAdded, PREFERENCE, "pair", "local"),
    (small.Unpaired, PREFERENCE, None, "local"),
    (small.PolicyGradient, "policy_gradient", None, "local"),
    (small.RewardMinusBatchMean, "policy_gradient", None, "local"),
    (small.RewardWeighted, "policy_gradient", None, "local"),
    (small.RewardedPairs, PREFERENCE, "pair", "local"),
    (small.Whitened, SUPERVISED, None, "local"),
    (small.PairsJudgedByTheBatch, PREFERENCE, "pair", "local"),
    (small.ValueRegression, "value", None, "local"),
    (small.RewardPairs, "reward", "pair", "local"),
    (small.RewardRegression, "reward", None, "local"),
    (small.Distilled, "distillation", None, "local"),
    (small.InBatchNegatives, "contrastive", None, "local"),
]


def bench(loss: Any) -> Bench:
    return Bench(load_subject(loss))


@pytest.mark.parametrize(("loss", "family", "level", "normalizer"), EXPECTED, ids=lambda x: getattr(x, "__name__", ""))
def test_family_level_and_normalizer(loss: type, family: str, level: str | None, normalizer: str) -> None:
    facts = bench(loss).facts
    guessed = facts.contract
    assert (guessed.family, guessed.level, guessed.normalizer) == (family, level, normalizer)
    assert not facts.any_promised


@pytest.mark.parametrize(
    ("loss", "coupling"),
    [
        (small.TokenMean, Coupling.NONE),
        (small.Unpaired, Coupling.NONE),
        (small.WithReference, Coupling.PAIRS),
        (small.ReferenceFree, Coupling.PAIRS),
        (small.ReferenceFreeAdded, Coupling.PAIRS),
        (small.RewardPairs, Coupling.PAIRS),
        (small.Whitened, Coupling.ROWS),
        (small.PairsJudgedByTheBatch, Coupling.PAIRED_ROWS),
        (small.InBatchNegatives, Coupling.UNKNOWN),
    ],
)
def test_how_rows_hang_together_is_measured(loss: type, coupling: Coupling) -> None:
    assert bench(loss).coupling is coupling


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (small.InBatchNegatives, "inferred: a contrastive term compares rows"),
        (small.Uniformity, "inferred: measured: rows look at others than their neighbour"),
        (small.Centred, None),
    ],
)
def test_contrastive_losses_are_coupled_where_rows_look_at_each_other(loss: type, why: str | None) -> None:
    facts = bench(loss).facts
    assert facts.contract.family == "contrastive"
    assert facts.contract.coupled == (why is not None)
    assert facts.origin.get("coupled") == why


@pytest.mark.parametrize(
    ("loss", "paired"),
    [
        (small.ReferenceFree, True),
        (small.RewardPairs, True),
        (small.PairsJudgedByTheBatch, True),
        (small.TokenMean, False),
        (small.Whitened, False),
    ],
)
def test_pairs_are_fed_as_pairs(loss: type, paired: bool) -> None:
    assert [schema.paired for schema in bench(loss).schemas] == [paired]


@pytest.mark.parametrize(
    ("loss", "lower_bound"), [(small.TokenMean, 0.0), (small.PolicyGradient, None), (small.ReferenceFree, 0.0)]
)
def test_policy_gradients_alone_are_not_guessed_to_be_bounded(loss: type, lower_bound: float | None) -> None:
    assert bench(loss).facts.contract.lower_bound == lower_bound


def test_guesses_say_that_they_are_and_why() -> None:
    assert bench(small.ReferenceFree).facts.lines() == (
        "family = 'preference' (inferred: it reads next_token_logprobs, and compares them in pairs)",
        "normalizer = 'local' (inferred: it reads no global count)",
        "level = 'pair' (inferred: measured: rows 2i and 2i+1 look at each other and at no others)",
        "lower_bound = 0.0 (inferred: preference losses are usually at least 0)",
    )


def test_a_promise_is_never_overruled_by_a_measurement() -> None:
    from loss_reference import Contract

    class Promised(small.ReferenceFree):
        contract = Contract(family="supervised", level="sequence")

    facts = bench(Promised).facts
    assert (facts.contract.family, facts.contract.level) == ("supervised", "sequence")
    assert facts.promised("family")
    assert not facts.promised("normalizer")


@pytest.mark.parametrize(("loss", "coupled"), [(small.RewardMinusBatchMean, True), (small.RewardWeighted, False)])
def test_a_baseline_from_the_rewards_of_the_batch_couples_its_rows(loss: type, coupled: bool) -> None:
    assert bench(loss).facts.contract.coupled == coupled
