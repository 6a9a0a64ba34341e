"""Supervised terms against numbers worked out by hand, and their reductions to nll."""

import math
from typing import Any

import numpy as np
import pytest

from .shared_rules import check_token_rules
from .supervised import nll
from .supervised_terms import (
    confidence_penalty,
    dft,
    focal_ce,
    label_smoothed_ce,
    mtp_ce,
    poly1_ce,
    unlikelihood,
    weighted_nll,
    z_loss,
)
from .test_oracles import LOG2, NAN, Data, Oracle, arr, gathered, near, random_tokens

# Probabilities 1/2, 1/4, 1/4 of a vocabulary of three.
HALF_QUARTERS = (LOG2, 0.0, 0.0)


def one_token(target: int, *logits: float) -> tuple[Data, Data]:
    """A row of two tokens, the second trained and predicted by these logits."""
    batch: Data = {"token_mask": arr([1, 1]), "input_ids": np.array([[0, target]])}
    return batch, {"logits": arr([logits, [NAN] * len(logits)])}


def row_of(ids: list[int], mask: list[int], *logits: float) -> tuple[Data, Data]:
    """One row that has the same logits at every position."""
    batch: Data = {"token_mask": arr(mask), "input_ids": np.array([ids])}
    return batch, {"logits": np.broadcast_to(np.array(logits), (1, len(ids), len(logits)))}


def tokens(seed: int) -> tuple[Data, Data]:
    batch, outputs = random_tokens(seed)
    rng = np.random.default_rng(seed)
    batch["token_weights"] = rng.random(batch["token_mask"].shape) * 2
    batch["sample_mask"] = np.array([1.0, 0.5, 1.0, 2.0])
    outputs["mtp_logits"] = rng.normal(size=(*batch["token_mask"].shape, 3, 5))
    return batch, outputs


BY_HAND: list[tuple[Oracle, dict[str, Any], int, float]] = [
    # At the target 0, p = 1/2: -log p = log 2. At the target 1, p = 1/4: -log p = 2 log 2.
    # Over the vocabulary -log p_v sums to 5 log 2.
    (label_smoothed_ce, {"label_smoothing": 0.3}, 0, (0.7 + 0.1 * 5) * LOG2),
    (label_smoothed_ce, {"label_smoothing": 0.3, "spread": "others"}, 0, (0.7 + 0.15 * 4) * LOG2),
    (label_smoothed_ce, {"label_smoothing": 0.3, "spread": "others"}, 1, (1.4 + 0.15 * 3) * LOG2),
    (focal_ce, {}, 0, 0.25 * LOG2),
    (focal_ce, {"gamma": 1.0, "alpha": 3.0}, 1, 3 * 0.75 * 2 * LOG2),
    (focal_ce, {"gamma": 0.5}, 0, LOG2 / math.sqrt(2)),
    (poly1_ce, {}, 0, LOG2 + 1.0),
    (poly1_ce, {"epsilon": -1.0}, 1, 2 * LOG2 - 0.75),
    (z_loss, {}, 1, 1e-4 * (2 * LOG2) ** 2),  # log(2 + 1 + 1)
    (dft, {}, 0, 0.5 * LOG2),
    (dft, {}, 1, 0.25 * 2 * LOG2),
    (confidence_penalty, {}, 0, LOG2 - 0.1 * 1.5 * LOG2),  # H = 1/2 log 2 + 2 (1/4) 2 log 2
    (confidence_penalty, {"coefficient": 2.0}, 1, -LOG2),
    (unlikelihood, {}, 1, 2 * LOG2),  # nothing trained before
]


@pytest.mark.parametrize(("oracle", "settings", "target", "expected"), BY_HAND)
def test_one_token_by_hand(oracle: Oracle, settings: dict[str, Any], target: int, expected: float) -> None:
    assert oracle(*one_token(target, *HALF_QUARTERS), **settings) == near(expected)


def test_capped_logits_by_hand() -> None:
    # 2 tanh(z / 2) = log 2 where z = 2 atanh(log 2 / 2): the probabilities above.
    batch, outputs = one_token(0, 2 * math.atanh(LOG2 / 2), 0.0, 0.0)
    assert label_smoothed_ce(batch, outputs, label_smoothing=0.3, softcap=2.0) == near(1.2 * LOG2)
    assert z_loss(batch, outputs, coefficient=1.0, softcap=2.0) == near((2 * LOG2) ** 2)
    # A logit far above the cap log 2 is log 2, beside 0.
    assert label_smoothed_ce(*one_token(1, 1e9, 0.0), label_smoothing=0.0, softcap=LOG2) == near(math.log(3))


def test_aggregations_by_hand() -> None:
    # Tokens of lp log(1/2), log(1/4) in row 0 and log(1/2) in row 1; dft's terms: log 2 / 2 each.
    batch: Data = {"token_mask": arr([0, 1, 1], [0, 1, 0])}
    outputs: Data = {"next_token_logprobs": arr([-LOG2, -2 * LOG2], [-LOG2, NAN])}
    for aggregation, expected in (("token_mean", 0.5), ("seq_mean_token_mean", 0.5), ("seq_mean_token_sum", 0.75)):
        assert dft(batch, outputs, aggregation=aggregation) == near(expected * LOG2)
    assert dft(batch, outputs, aggregation="fixed", max_length=3) == near(0.25 * LOG2)


def test_weighted_nll_by_hand() -> None:
    # Tokens of 1, 2 and 3 weighed 2, 1/2 and 0: 3 over three tokens, or over the weights' 2.5.
    batch: Data = {"token_mask": arr([0, 1, 1], [0, 1, 0]), "token_weights": arr([NAN, 2, 0.5], [NAN, 0, NAN])}
    outputs: Data = {"next_token_logprobs": arr([-1, -2], [-3, NAN])}
    assert weighted_nll(batch, outputs) == near(1.0)
    assert weighted_nll(batch, outputs, divisor="weights") == near(1.2)
    assert weighted_nll(batch, outputs, aggregation="seq_mean_token_sum") == near(1.5)
    # A token of weight 0 is not read; global counts are the token divisor's alone.
    outputs["next_token_logprobs"][1, 0] = NAN
    counted = batch | {"global_valid_toks": np.array(6.0)}
    assert weighted_nll(counted, outputs) == near(0.5)
    assert weighted_nll(counted, outputs, divisor="weights") == near(1.2)
    # Row 0 at weight 1/2: 3/2 over two tokens, or over the weights' 5/4.
    batch["sample_mask"] = np.array([0.5, 1.0])
    assert weighted_nll(batch, outputs) == near(1.5 / 2.0)
    assert weighted_nll(batch, outputs, divisor="weights") == near(1.2)


def test_weighted_nll_of_a_constant_weight() -> None:
    batch, outputs = tokens(20)
    batch["token_weights"][:] = 3.0
    assert weighted_nll(batch, outputs) == near(3 * nll(batch, outputs))
    assert weighted_nll(batch, outputs, divisor="weights") == near(nll(batch, outputs))
    with pytest.raises(ValueError, match="token_mean"):
        weighted_nll(batch, outputs, divisor="weights", aggregation="seq_mean_token_mean")


def test_unlikelihood_of_the_context_by_hand() -> None:
    # Targets 1, 0, 0 after contexts {}, {1}, {1}: -log(1 - 1/4) twice, and nll 2 + 1 + 1 times log 2.
    batch, outputs = row_of([2, 1, 0, 0], [1, 1, 1, 1], *HALF_QUARTERS)
    assert unlikelihood(batch, outputs) == near((4 * LOG2 + 2 * math.log(4 / 3)) / 3)
    assert unlikelihood(batch, outputs, alpha=0.5) == near((4 * LOG2 + math.log(4 / 3)) / 3)
    # An untrained token is no context: of 1, 2 and 0 only 2 and 0 are trained.
    batch, outputs = row_of([0, 1, 2, 0], [0, 0, 1, 1], *HALF_QUARTERS)
    assert unlikelihood(batch, outputs) == near((3 * LOG2 + math.log(4 / 3)) / 2)


def test_unlikelihood_of_repeats_by_hand() -> None:
    # 0 1 0 1 after a first 2: the bigram 0 1 ends a second time at the last token, of p = 1/4.
    batch, outputs = row_of([2, 0, 1, 0, 1], [1, 1, 1, 1, 1], *HALF_QUARTERS)
    repeats: dict[str, Any] = {"candidates": "repeated_ngrams"}
    assert unlikelihood(batch, outputs, ngram=2, **repeats) == near((6 * LOG2 + math.log(4 / 3)) / 4)
    assert unlikelihood(batch, outputs, **repeats) == near(1.5 * LOG2)
    # Single tokens: the second 0 and the second 1.
    assert unlikelihood(batch, outputs, ngram=1, **repeats) == near((7 * LOG2 + math.log(4 / 3)) / 4)
    # Overlapping: 0 0 ends at positions 2 and 3.
    batch, outputs = row_of([2, 0, 0, 0], [1, 1, 1, 1], *HALF_QUARTERS)
    assert unlikelihood(batch, outputs, ngram=2, **repeats) == near(4 * LOG2 / 3)
    # A repeat of untrained tokens is none.
    batch, outputs = row_of([2, 0, 1, 0, 1], [1, 1, 0, 1, 1], *HALF_QUARTERS)
    assert unlikelihood(batch, outputs, ngram=2, **repeats) == near(4 * LOG2 / 3)


def test_mtp_by_hand() -> None:
    # Three tokens, all trained; every head predicts (1/2, 1/4, 1/4). Head 1: tokens 0, 1: 3 log 2. Head 2: token 1.
    batch: Data = {"token_mask": arr([1, 1, 1]), "input_ids": np.array([[2, 0, 1]])}
    outputs: Data = {"mtp_logits": np.broadcast_to(np.array(HALF_QUARTERS), (1, 3, 2, 3))}
    assert mtp_ce(batch, outputs) == near(2.5 * LOG2)
    assert mtp_ce(batch, outputs, head_weights=[1, 0.5]) == near(2 * LOG2)
    assert mtp_ce(batch, outputs, head_weights=[0, 1]) == near(LOG2)
    assert mtp_ce(batch | {"global_valid_toks": np.array(10.0)}, outputs) == near(0.5 * LOG2)
    # Untrained token 1: head 1 has one token, both heads predict token 2.
    batch["token_mask"][0, 1] = 0.0
    assert mtp_ce(batch, outputs) == near(4 * LOG2)
    with pytest.raises(ValueError, match="head_weights"):
        mtp_ce(batch, outputs, head_weights=[1])


REDUCES_TO_NLL: list[tuple[Oracle, dict[str, Any]]] = [
    (label_smoothed_ce, {"label_smoothing": 0.0}),
    (label_smoothed_ce, {"label_smoothing": 0.0, "spread": "others"}),
    (focal_ce, {"gamma": 0.0}),
    (poly1_ce, {"epsilon": 0.0}),
    (unlikelihood, {"alpha": 0.0}),
    (unlikelihood, {"candidates": "repeated_ngrams", "ngram": 9}),
    (confidence_penalty, {"coefficient": 0.0}),
]


@pytest.mark.parametrize(("oracle", "settings"), REDUCES_TO_NLL)
def test_reduces_to_nll(oracle: Oracle, settings: dict[str, Any]) -> None:
    batch, outputs = tokens(21)
    for aggregation in ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum"):
        expected = nll(batch, outputs, aggregation=aggregation)
        assert oracle(batch, outputs, aggregation=aggregation, **settings) == near(expected)


def test_other_reductions() -> None:
    batch, outputs = tokens(22)
    one_head: Data = {"mtp_logits": outputs["logits"][:, :, None]}
    assert mtp_ce(batch, one_head) == near(nll(batch, outputs))
    batch["token_weights"][:] = 1.0
    assert weighted_nll(batch, outputs) == near(nll(batch, outputs))
    # Smoothing over the others by e is smoothing over all by e V / (V - 1).
    spread = label_smoothed_ce(batch, outputs, label_smoothing=0.2, spread="others")
    assert spread == near(label_smoothed_ce(batch, outputs, label_smoothing=0.25))
    # A shift of the logits is nothing to a cross-entropy, and all to the z-loss.
    shifted: Data = {"logits": outputs["logits"] + 3.0}
    assert label_smoothed_ce(batch, shifted) == near(label_smoothed_ce(batch, outputs))
    assert abs(z_loss(batch, shifted) - z_loss(batch, outputs)) > 1e-4
    lp: Data = {"next_token_logprobs": gathered(batch, outputs)}
    for oracle in (focal_ce, poly1_ce, dft, weighted_nll):
        assert oracle(batch, lp) == near(oracle(batch, outputs))


def test_uniform_logits_and_bounds() -> None:
    batch, outputs = tokens(23)
    uniform: Data = {"logits": np.zeros_like(outputs["logits"])}
    assert label_smoothed_ce(batch, uniform) == near(math.log(5))
    assert confidence_penalty(batch, uniform) == near(0.9 * math.log(5))
    assert focal_ce(batch, outputs) <= nll(batch, outputs)
    assert 0.0 <= dft(batch, outputs) <= 1 / math.e
    # The smoothed minimum is the entropy of the smoothed target: at 0.1, V = 3, of (0.8, 0.1, 0.1).
    p = (1 - 0.3 + 0.1, 0.1, 0.1)
    at = label_smoothed_ce(*one_token(0, *map(math.log, p)), label_smoothing=0.3)
    assert at == near(-sum(x * math.log(x) for x in p))


def test_extremes() -> None:
    certain = one_token(0, 1e4, 0.0, 0.0)
    for oracle in (focal_ce, poly1_ce, dft, confidence_penalty, unlikelihood):
        assert oracle(*certain) == near(0.0)
    impossible = one_token(1, 1e4, 0.0, 0.0)
    assert focal_ce(*impossible) == near(1e4)
    assert dft(*impossible) == near(0.0)
    assert z_loss(*impossible) == near(1e4)
    assert label_smoothed_ce(*impossible, label_smoothing=0.3) == near(7e3 + 0.1 * 2e4)
    # log(1 - p) of a certain wrong token is the other two's e^-1e4, not log 0.
    batch, outputs = row_of([2, 0, 1], [0, 1, 1], 1e4, 0.0, 0.0)
    assert unlikelihood(batch, outputs) == near((1e4 + 1e4 - LOG2) / 2)
    assert focal_ce({"token_mask": arr([0, 1])}, {"next_token_logprobs": arr([0.0])}, gamma=0.5) == 0.0


ALL: list[tuple[Oracle, dict[str, Any]]] = [
    (label_smoothed_ce, {}),
    (label_smoothed_ce, {"spread": "others"}),
    (weighted_nll, {}),
    (focal_ce, {}),
    (poly1_ce, {}),
    (z_loss, {}),
    (dft, {}),
    (unlikelihood, {}),
    (unlikelihood, {"candidates": "repeated_ngrams", "ngram": 1}),
    (confidence_penalty, {}),
]


@pytest.mark.parametrize(("oracle", "settings"), [*ALL, (mtp_ce, {})])
def test_shared_rules(oracle: Oracle, settings: dict[str, Any]) -> None:
    batch, outputs = tokens(24)
    if oracle is mtp_ce:
        # Its heads each have their own mask; NaN where no head reads is tried in the next test.
        batch["token_mask"][:] = 1.0
        outputs = {"mtp_logits": outputs["mtp_logits"]}
    check_token_rules(oracle, batch, outputs, **settings)


def test_mtp_reads_no_untrained_target() -> None:
    batch, outputs = tokens(25)
    value = mtp_ce(batch, outputs)
    rows, width, heads, _ = outputs["mtp_logits"].shape
    for b, t, d in np.ndindex(rows, width, heads):
        if t + d + 1 >= width or batch["token_mask"][b, t + d + 1] == 0.0:
            outputs["mtp_logits"][b, t, d] = NAN
    assert mtp_ce(batch, outputs) == near(value)


def test_refused_settings() -> None:
    batch, outputs = tokens(26)
    with pytest.raises(ValueError, match="unknown spread"):
        label_smoothed_ce(batch, outputs, spread="all")
    with pytest.raises(ValueError, match="unknown divisor"):
        weighted_nll(batch, outputs, divisor="rows")
    with pytest.raises(ValueError, match="unknown candidates"):
        unlikelihood(batch, outputs, candidates="all")
