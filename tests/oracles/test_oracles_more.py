"""The further preference oracles against numbers worked out by hand, and the catalogue's anchors and reductions."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .preference import dpo
from .preference_absolute import apo_down, apo_zero, bco_pair, cal_dpo, dpop, nca_pair, sppo_hard
from .preference_divergences import fdpo_alpha, fdpo_forward_kl, fdpo_js
from .preference_pairs import cdpo, discopop, dpo_norm, exo_pair, hinge_dpo, ipo, ld_dpo, r_dpo, robust_dpo
from .preference_rewards import odpo, rebel, rpo_bwd_kl, rpo_fwd_kl, rpo_sq
from .preference_sets import aot, aot_unpaired, quantile_coupling
from .preference_without_reference import alphapo, cpo, log_one_minus_exp, orpo, simpo, slic_hf
from .test_oracles import LOG2, NAN, Data, Oracle, arr, gathered, near, random_tokens

SIG1, SIG2 = 0.7310585786300049, 0.8807970779778823  # sigma(1), sigma(2)
SP1, SP2 = 1.3132616875182228, 2.1269280110429727  # softplus(1), softplus(2); softplus(-x) = softplus(x) - x


def log_ratios(*h: float, rewards: Any = None) -> tuple[Data, Data]:
    """Rows of one trained token each, with these log-ratios h_w, h_l, h_w, h_l, .."""
    rows = len(h)
    batch: Data = {"token_mask": np.ones((rows, 2)), "reference_policy_logprobs": np.full((rows, 2), -9.0)}
    if rewards is not None:
        batch["rewards"] = np.array(rewards, dtype=np.float64)
    return batch, {"next_token_logprobs": np.array(h)[:, None] - 9.0}


def at_reference(seed: int) -> tuple[Data, Data]:
    """Random tokens where the policy is the reference."""
    batch, outputs = random_tokens(seed)
    batch["reference_policy_logprobs"][:, 1:] = gathered(batch, outputs)
    batch["rewards"] = np.array([1.0, 0.25, -0.5, 1.0])
    return batch, outputs


BY_HAND: list[tuple[Oracle, dict[str, Any], tuple[float, float], float]] = [
    # x = 1 or 2 below (beta = 1, or beta = 1/2 and D = 2).
    (cdpo, {"beta": 0.5}, (2, 0), 0.9 * (SP1 - 1) + 0.1 * SP1),
    (robust_dpo, {"beta": 0.5}, (2, 0), (0.9 * (SP1 - 1) - 0.1 * SP1) / 0.8),
    (hinge_dpo, {"beta": 0.25}, (2, 0), 0.5),
    (hinge_dpo, {"beta": 1.0}, (2, 0), 0.0),
    (hinge_dpo, {"beta": 1.0}, (0, 2), 3.0),
    (ipo, {}, (2, 0), 9.0),  # (2 - 5)^2
    (dpo_norm, {"beta": 0.5}, (2, 0), SP1 - 1),
    # u = -e^{-h}: -1/2 - (-1) at h_w = log 2, h_l = 0; x = 1 at beta = 2.
    (fdpo_forward_kl, {"beta": 2.0}, (LOG2, 0), SP1 - 1),
    # u = log sigma(h): log(2/3) - log(1/2) = log(4/3) at h_w = log 2; e^{-x} = 3/4 at beta = 1.
    (fdpo_js, {"beta": 1.0}, (LOG2, 0), math.log(1.75)),
    # a = 1/2: u = -2 e^{-h/2}; -2/2 + 2 = 1 at h_w = 2 log 2. a = 2: u = e^h; 2 - 1 = 1 at h_w = log 2.
    (fdpo_alpha, {"beta": 1.0}, (2 * LOG2, 0), SP1 - 1),
    (fdpo_alpha, {"beta": 1.0, "alpha": 2.0}, (LOG2, 0), SP1 - 1),
    # sigma(log 3) = 3/4 against 1/2: 3/4 log(3/2) + 1/4 log(1/2).
    (exo_pair, {"beta": 1.0, "label_smoothing": 0.5}, (math.log(3), 0), 0.13081203594113695),
    (discopop, {"beta": 1.0, "tau": 1.0}, (1, 0), (1 - SIG1) * (SP1 - 1) + SIG1 * math.exp(-1)),
    (discopop, {"beta": 1.0, "tau": 0.5}, (1, 0), (1 - SIG2) * (SP1 - 1) + SIG2 * math.exp(-1)),
    (r_dpo, {"beta": 0.5}, (2, 0), SP1 - 1),
    (nca_pair, {"beta": 1.0}, (1, 2), (SP1 - 1) + 0.5 * SP1 + 0.5 * SP2),
    (bco_pair, {"beta": 1.0}, (1, 2), (SP1 - 1) + SP2),
    (sppo_hard, {}, (2, 1), 45.0),  # (2 - 5)^2 + (1 + 5)^2
    (apo_zero, {"beta": 0.5}, (2, 4), (1 - SIG1) + SIG2),
    (apo_down, {"beta": 0.5}, (4, 2), SIG2 + 1 - SIG1),
    (dpop, {"beta": 1.0, "lambda_": 1.0}, (-1, -4), SP2 - 2),  # 3 - 1
    (dpop, {"beta": 1.0}, (2, 1), SP1 - 1),
    (dpop, {"beta": 1.0, "lambda_": 3.0}, (-1, -2), SP2),  # 1 - 3
    (cal_dpo, {}, (2, 1), SP1 - 1 + 45.0),
    (aot, {"beta": 0.5}, (2, 0), SP1 - 1),
    (aot_unpaired, {"beta": 0.5}, (2, 0), SP1 - 1),
    # No reference: p = h - 9 here; slic_hf has no beta.
    (slic_hf, {}, (2, 1.75), 0.75),
    (slic_hf, {}, (0, 2), 3.0),
    (slic_hf, {}, (2, 0), 0.0),
    (cpo, {"beta": 0.5}, (2, 0), SP1 - 1 + 7.0),
    (cpo, {"beta": 0.5, "alpha": 0.0, "label_smoothing": 0.1}, (2, 0), SP1 - 1 + 0.1),
    (cpo, {"beta": 0.25, "alpha": 0.0, "loss_type": "hinge", "label_smoothing": 0.1}, (2, 0), 0.5),
    (cpo, {"beta": 0.25, "alpha": 1.0, "loss_type": "ipo"}, (5, 0), 9.0 + 4.0),  # (5 - 2)^2
    (simpo, {"beta": 1.0, "gamma": 1.0}, (2, 0), SP1 - 1),
    (simpo, {}, (1, 6), SP1),  # -0.5 - 0.5
    (simpo, {"label_smoothing": 0.2}, (1, 6), SP1 - 0.2),
    # alpha = 1: e^{-a_l} - e^{-a_w} = e^9 - e^7 at beta = 1/(e^9 - e^7), gamma = 0.
    (alphapo, {"beta": 1 / (math.e**9 - math.e**7), "alpha": 1.0, "gamma": 0.0}, (2, 0), SP1 - 1),
    # a_w = log(3/4), a_l = log(1/2): odds 3 and 1; -log sigma(log 3) = log(4/3); NLL = log(4/3).
    (orpo, {"beta": 0.5}, (9 + math.log(0.75), 9 - LOG2), 1.5 * math.log(4 / 3)),
]


@pytest.mark.parametrize(("oracle", "config", "h", "expected"), BY_HAND)
def test_one_pair_by_hand(oracle: Oracle, config: dict[str, Any], h: tuple[float, float], expected: float) -> None:
    assert oracle(*log_ratios(*h), **config) == near(expected)


REWARDS_BY_HAND: list[tuple[Oracle, dict[str, Any], tuple[float, float], tuple[float, float], float]] = [
    # x = 0.2 * 5 = 1; y = 3 - 1 = 2.
    (rpo_sq, {}, (5, 0), (3, 1), 1.0),
    (rpo_sq, {"eta": 0.5}, (5, 0), (3, 1), 0.0),
    (rpo_fwd_kl, {}, (5, 0), (3, 1), SIG1 * math.log(SIG1 / SIG2) + (1 - SIG1) * math.log((1 - SIG1) / (1 - SIG2))),
    (rpo_bwd_kl, {}, (5, 0), (3, 1), SIG2 * math.log(SIG2 / SIG1) + (1 - SIG2) * math.log((1 - SIG2) / (1 - SIG1))),
    (odpo, {"beta": 0.2, "alpha": 0.5}, (10, 0), (3, 1), SP1 - 1),
    (odpo, {}, (5, 0), (1, 2.5), SP2 - 2),
    (rebel, {}, (5, 0), (3, 1), 9.0),
    (rebel, {"eta": 2.5}, (5, 0), (3, 1), 0.0),
]


@pytest.mark.parametrize(("oracle", "config", "h", "rewards", "expected"), REWARDS_BY_HAND)
def test_one_pair_with_rewards_by_hand(
    oracle: Oracle, config: dict[str, Any], h: tuple[float, float], rewards: tuple[float, float], expected: float
) -> None:
    assert oracle(*log_ratios(*h, rewards=rewards), **config) == near(expected)


# Reward gaps are 0.75 and -1.5 at the reference.
AT_REFERENCE: list[tuple[Oracle, dict[str, Any], float]] = [
    (cdpo, {}, LOG2),
    (robust_dpo, {}, LOG2),
    (hinge_dpo, {}, 1.0),
    (ipo, {}, 25.0),
    (ipo, {"average_log_probs": True, "beta": 0.5}, 1.0),
    (dpo_norm, {}, LOG2),
    (fdpo_forward_kl, {}, LOG2),
    (fdpo_js, {}, LOG2),
    (fdpo_alpha, {}, LOG2),
    (exo_pair, {}, -LOG2 - 0.5 * math.log(1e-3 * 0.999)),
    (nca_pair, {}, 2 * LOG2),
    (bco_pair, {}, 2 * LOG2),
    (sppo_hard, {}, 50.0),
    (apo_zero, {}, 1.0),
    (apo_down, {}, 1.0),
    (discopop, {}, 0.5 * (1 + LOG2)),
    (ld_dpo, {}, LOG2),
    (dpop, {}, LOG2),
    (cal_dpo, {}, LOG2 + 50.0),
    (aot, {}, LOG2),
    (aot, {"label_smoothing": 0.3}, LOG2),
    (aot_unpaired, {}, LOG2),
    (rpo_sq, {}, (0.5625 + 2.25) / 2),
    (rebel, {}, (0.5625 + 2.25) / 2),
    (odpo, {}, (math.log1p(math.exp(0.75)) + math.log1p(math.exp(-1.5))) / 2),
]


@pytest.mark.parametrize(("oracle", "config", "expected"), AT_REFERENCE)
def test_value_where_policy_is_reference(oracle: Oracle, config: dict[str, Any], expected: float) -> None:
    assert oracle(*at_reference(10), **config) == near(expected)


def test_minima() -> None:
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    at = math.log(9.0)
    assert cdpo(*log_ratios(at, 0), beta=1.0) == near(entropy)
    assert exo_pair(*log_ratios(at, 0), beta=1.0, label_smoothing=0.1) == near(0.0)
    assert ipo(*log_ratios(5, 0)) == near(0.0)
    assert sppo_hard(*log_ratios(5, -5)) == near(0.0)
    assert nca_pair(*log_ratios(LOG2, -800), beta=1.0) == near(1.5 * math.log(3) - LOG2)
    assert robust_dpo(*log_ratios(10, 0), beta=1.0) == pytest.approx(-1.25, abs=1e-3)
    at_log_odds: list[Oracle] = [cdpo, exo_pair]
    for oracle in at_log_odds:
        for step in (-0.01, 0.01):
            assert oracle(*log_ratios(at + step, 0), beta=1.0, label_smoothing=0.1) > oracle(
                *log_ratios(at, 0), beta=1.0, label_smoothing=0.1
            )
    bounded: list[Oracle] = [apo_zero, apo_down]
    for oracle in bounded:
        assert 0.0 <= oracle(*log_ratios(-900, 900), beta=1.0) <= 2.0
    attained: list[Oracle] = [rpo_fwd_kl, rpo_bwd_kl, rpo_sq]
    for oracle in attained:
        assert oracle(*log_ratios(5, 0, rewards=(3, 2))) == near(0.0)
        assert oracle(*log_ratios(5, 0, rewards=(3, 2.1))) > 0.0


def defaults(oracle: Callable[..., Any]) -> dict[str, Any]:
    found = inspect.signature(oracle).parameters.values()
    return {parameter.name: parameter.default for parameter in found if parameter.default is not parameter.empty}


def test_default_settings() -> None:
    settings: list[tuple[Oracle, dict[str, Any]]] = [
        (cdpo, {"beta": 0.1, "label_smoothing": 0.1}),
        (robust_dpo, {"beta": 0.1, "label_smoothing": 0.1}),
        (ipo, {"beta": 0.1, "average_log_probs": False}),
        (exo_pair, {"beta": 0.1, "label_smoothing": 1e-3}),
        (discopop, {"beta": 0.1, "tau": 0.05}),
        (fdpo_alpha, {"beta": 0.1, "alpha": 0.5}),
        (ld_dpo, {"beta": 0.1, "alpha": 0.5}),
        (r_dpo, {"beta": 0.1, "alpha": 0.01}),
        (dpop, {"beta": 0.3, "lambda_": 50.0}),
        (odpo, {"beta": 0.1, "alpha": 1.0}),
        (rebel, {"eta": 1.0}),
        (orpo, {"beta": 0.1, "nll_span": "response", "nll_average": "sequence"}),
        (cpo, {"beta": 0.1, "alpha": 1.0, "label_smoothing": 0.0, "loss_type": "sigmoid", "nll_average": "sequence"}),
        (simpo, {"beta": 0.1, "gamma": 0.5, "label_smoothing": 0.0, "nll_weight": 0.0, "nll_average": "sequence"}),
        (alphapo, {"beta": 0.1, "alpha": 0.25, "gamma": 0.5}),
        (slic_hf, {"delta": 1.0}),
        (aot, {"beta": 0.1, "label_smoothing": 0.0}),
        (aot_unpaired, {"beta": 0.1, "label_smoothing": 0.0}),
        *((oracle, {"beta": 0.2, "eta": 1.0}) for oracle in (rpo_sq, rpo_fwd_kl, rpo_bwd_kl)),
        *((oracle, {"beta": 0.1}) for oracle in (hinge_dpo, dpo_norm, fdpo_forward_kl, fdpo_js, nca_pair, bco_pair)),
        *((oracle, {"beta": 0.1}) for oracle in (sppo_hard, apo_zero, apo_down, cal_dpo)),
    ]
    for oracle, expected in settings:
        assert defaults(oracle) == expected, oracle.__name__


def test_refused_settings() -> None:
    for e in (0.5, -0.1):
        with pytest.raises(ValueError, match="label_smoothing"):
            robust_dpo(*log_ratios(1, 0), label_smoothing=e)
    for e in (0.0, 1.0):
        with pytest.raises(ValueError, match="label_smoothing"):
            exo_pair(*log_ratios(1, 0), label_smoothing=e)
    with pytest.raises(ValueError, match="unknown nll_average"):
        orpo(*log_ratios(1, 0), nll_average="mean")
    for oracle, _ in PAIR_LOSSES:
        with pytest.raises(ValueError, match="even"):
            oracle(*log_ratios(1, 0, 1, rewards=(0, 0, 0)))


REDUCES_TO_DPO: list[tuple[Oracle, dict[str, Any]]] = [
    (cdpo, {"label_smoothing": 0.0}),
    (robust_dpo, {"label_smoothing": 0.0}),
    (ld_dpo, {"alpha": 1.0}),
    (dpop, {"lambda_": 0.0, "beta": 0.1}),
    (r_dpo, {"alpha": 0.0}),
    (fdpo_alpha, {"alpha": 1.0}),
    (odpo, {"alpha": 0.0}),
]


@pytest.mark.parametrize(("oracle", "config"), REDUCES_TO_DPO)
def test_reduces_to_dpo(oracle: Oracle, config: dict[str, Any]) -> None:
    batch, outputs = random_tokens(11)
    batch["rewards"] = np.arange(4.0)
    assert oracle(batch, outputs, **config) == near(dpo(batch, outputs))


def test_other_reductions() -> None:
    batch, outputs = random_tokens(12)
    assert cdpo(batch, outputs) == near(dpo(batch, outputs, label_smoothing=0.1))
    assert dpo_norm(batch, outputs) == near(dpo(batch, outputs, average_log_probs=True))
    assert fdpo_alpha(batch, outputs, alpha=0.0) == near(fdpo_forward_kl(batch, outputs))
    assert fdpo_alpha(batch, outputs, alpha=1 - 1e-7) == pytest.approx(dpo(batch, outputs), abs=1e-5)
    # The flips' expectation of robust_dpo is dpo at clean labels.
    order = np.array([1, 0, 3, 2])
    flipped = ({k: v[order] for k, v in d.items()} for d in (batch, outputs))
    assert 0.9 * robust_dpo(batch, outputs) + 0.1 * robust_dpo(*flipped) == near(dpo(batch, outputs))
    # CPO without its NLL is DPO against a constant reference.
    batch["reference_policy_logprobs"] = np.zeros((4, 6))
    assert cpo(batch, outputs, alpha=0.0) == near(dpo(batch, outputs))
    assert simpo(batch, outputs, gamma=0.0) == near(dpo_norm(batch, outputs))
    assert alphapo(batch, outputs, alpha=0.0) == near(simpo(batch, outputs))
    assert alphapo(batch, outputs, alpha=1e-9) == pytest.approx(simpo(batch, outputs), rel=1e-8)
    # Rewards: rebel is rpo_sq at beta = 1/eta; bwd_kl is cDPO at e = sigma(-y) less its entropy.
    pair = log_ratios(5, 2, rewards=(3, 2))
    assert rebel(*pair, eta=4.0) == near(rpo_sq(*pair, beta=0.25))
    entropy = -(SIG1 * math.log(SIG1) + (1 - SIG1) * math.log(1 - SIG1))
    assert rpo_bwd_kl(*pair) == near(cdpo(*pair, beta=0.2, label_smoothing=1 - SIG1) - entropy)
    assert rpo_bwd_kl(*log_ratios(5, 2, rewards=(900, 0))) == near(dpo(*pair, beta=0.2))


def test_extremes() -> None:
    # Clamped exponents, and a term that is inf * 0 as written.
    for oracle in (fdpo_forward_kl, fdpo_alpha):
        assert oracle(*log_ratios(0, -8000)) == near(0.0)
        assert oracle(*log_ratios(-8000, -8001)) == near(LOG2)
    # Exponents 100 and 79 count as 80 and 79: x = (e^79 - e^80) beta = -1 and (2 e^79 - 2 e^80) beta = -2.
    small = 1 / (math.exp(80.0) - math.exp(79.0))
    assert fdpo_forward_kl(*log_ratios(-100, -79), beta=small) == near(SP1)
    assert fdpo_alpha(*log_ratios(-200, -158), beta=small) == near(SP2)
    assert discopop(*log_ratios(-9000, 0), beta=1.0) == near(9000.0)
    assert discopop(*log_ratios(9000, 0), beta=1.0) == near(0.0)
    assert alphapo(*log_ratios(-9000, -9001)) == near(0.0)
    assert alphapo(*log_ratios(-9001, -9000)) == math.inf
    assert exo_pair(*log_ratios(9000, 0), beta=1.0) == near(-math.log(0.999))


def lengths_case() -> tuple[Data, Data]:
    # Chosen: log-ratios 1, 2 (column 2 untrained); rejected: 1, 1, 4. Lengths 2 and 3, so L = 2.
    batch: Data = {
        "token_mask": arr([1, 1, 0, 1], [0, 1, 1, 1]),
        "reference_policy_logprobs": arr([NAN, -9, NAN, -9], [NAN, -9, -9, -9]),
    }
    return batch, {"next_token_logprobs": arr([-8, NAN, -7], [-8, -8, -5])}


def test_lengths_by_hand() -> None:
    batch, outputs = lengths_case()
    # h_w = 3, h_l = 1 + 1 + 4 alpha.
    assert ld_dpo(batch, outputs, beta=1.0, alpha=0.0) == near(SP1 - 1)
    assert ld_dpo(batch, outputs, beta=1.0) == near(SP1)
    # D = -3, n_w - n_l = -1.
    assert r_dpo(batch, outputs, beta=0.5, alpha=0.5) == near(SP2)
    assert r_dpo(batch, outputs, beta=1.0, alpha=-1.0) == near(SP2)
    # Averages 1.5 and 2; policy averages -7.5 and -7; sums -15 and -21.
    assert dpo_norm(batch, outputs, beta=2.0) == near(SP1)
    assert ipo(batch, outputs, beta=1.0, average_log_probs=True) == near(1.0)
    assert ipo(batch, outputs, beta=1.0) == near(12.25)
    assert simpo(batch, outputs, beta=1.0) == near(SP1)
    assert cpo(batch, outputs, beta=1 / 6) == near(SP1 - 1 + 7.5)
    assert cpo(batch, outputs, beta=1.0, alpha=0.0, loss_type="ipo") == near(1.0)
    assert slic_hf(batch, outputs, delta=7.0) == near(1.0)
    assert simpo({"token_mask": batch["token_mask"]}, outputs, beta=1.0) == near(SP1)


def test_nll_spans_by_hand() -> None:
    # Chosen rows: tokens of 1 and 3 in row 0, of 6 in row 2. Row means 2 and 6; token mean 10/3. Alike rejected rows.
    batch: Data = {"token_mask": arr([0, 1, 1], [0, 1, 1], [0, 1, 0], [0, 1, 0])}
    outputs: Data = {"next_token_logprobs": arr([-1, -3], [-3, -1], [-6, NAN], [-6, NAN])}
    for oracle in (orpo, cpo):
        neutral = 0.1 * LOG2 if oracle is orpo else LOG2
        assert oracle(batch, outputs) == near(4.0 + neutral)
        assert oracle(batch, outputs, nll_average="tokens") == near(10 / 3 + neutral)
        assert oracle(batch, outputs, nll_average="sum") == near(5.0 + neutral)
        # Pair weights 1 and 1/2: (2 + 3)/1.5 and (4 + 3)/2.5.
        weighted = {**batch, "sample_mask": np.array([1.0, 1.0, 1.0, 0.5])}
        assert oracle(weighted, outputs) == near(10 / 3 + neutral)
        assert oracle(weighted, outputs, nll_average="tokens") == near(2.8 + neutral)
        assert oracle(weighted, outputs, nll_average="sum") == near(14 / 3 + neutral)
    # Averages log(3/4) (of log(1/2) and log(9/8)) and log(1/2), as in the one-token pair above.
    outputs["next_token_logprobs"] = arr([-LOG2, math.log(9 / 8)], [-LOG2, -LOG2])
    pair: Data = {"token_mask": np.ones((2, 3))}
    assert orpo(pair, outputs, beta=0.5) == near(1.5 * math.log(4 / 3))
    outputs["next_token_logprobs"] = arr([-1, -3], [-3, -1], [-6, NAN], [-6, NAN])
    # A rejected row without a trained token: neutral odds.
    batch["token_mask"][3] = 0.0
    assert orpo(batch, outputs) == near(4.0 + 0.1 * LOG2)


def test_nll_of_prompt_and_response_by_hand() -> None:
    # Chosen rows of 5 and of 4 tokens, the first of each unpredicted: prompts of 1, 2 and of 8; responses as above.
    batch: Data = {"token_mask": arr([0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0])}
    batch["input_lengths"] = np.array([5, 5, 3, 3])
    outputs: Data = {
        "next_token_logprobs": arr([-1, -2, -1, -3], [NAN, NAN, -3, -1], [-8, -6, NAN, NAN], [NAN, -6, NAN, NAN])
    }
    assert orpo(batch, outputs) == near(4.0 + 0.1 * LOG2)
    # Row means 7/4 and 7; token mean 21/6.
    assert orpo(batch, outputs, nll_span="full") == near(4.375 + 0.1 * LOG2)
    assert orpo(batch, outputs, nll_span="full", nll_average="tokens") == near(3.5 + 0.1 * LOG2)
    # Without lengths the row is read to its end.
    outputs["next_token_logprobs"][2, 2:] = [-5, -1]
    del batch["input_lengths"]
    assert orpo(batch, outputs, nll_span="full") == near((1.75 + 5) / 2 + 0.1 * LOG2)
    with pytest.raises(ValueError, match="unknown nll_span"):
        orpo(batch, outputs, nll_span="prompt")


def test_nll_beside_simpo_by_hand() -> None:
    # Log-probs -7 and -9 of one token each.
    assert simpo(*log_ratios(2, 0), beta=1.0, gamma=1.0, nll_weight=0.5) == near(SP1 - 1 + 3.5)
    batch: Data = {"token_mask": arr([0, 1, 1], [0, 1, 1], [0, 1, 0], [0, 1, 0])}
    outputs: Data = {"next_token_logprobs": arr([-1, -3], [-3, -1], [-6, NAN], [-6, NAN])}
    plain = simpo(batch, outputs)
    assert simpo(batch, outputs, nll_weight=2.0) == near(plain + 8.0)
    assert simpo(batch, outputs, nll_weight=2.0, nll_average="tokens") == near(plain + 20 / 3)


def test_log_one_minus_exp() -> None:
    assert log_one_minus_exp(-LOG2) == near(-LOG2)
    assert log_one_minus_exp(math.log(0.75)) == near(-2 * LOG2)
    assert log_one_minus_exp(math.log(0.25)) == near(math.log(0.75))
    assert log_one_minus_exp(-1e-300) == near(math.log(1e-300))
    assert log_one_minus_exp(0.0) == -math.inf


# --- sets -------------------------------------------------------------------------------------------------------


def test_quantile_coupling_by_hand() -> None:
    assert quantile_coupling([(3.0, 1.0), (1.0, 1.0)], [(5.0, 1.0), (4.0, 1.0)]) == [(-3.0, 1.0), (-2.0, 1.0)]
    # A weight of 2 is the value twice.
    assert quantile_coupling([(0.0, 2.0), (1.0, 1.0)], [(0.0, 1.0), (1.0, 2.0)]) == [(0, 1), (-1, 1), (0, 1)]


def test_aot_by_hand() -> None:
    # Policy gaps 1 and -1, reference gaps 0 and 3: sorted -1, 1 less 0, 3 is -1, -2.
    batch: Data = {"token_mask": np.ones((4, 2)), "reference_policy_logprobs": arr([0, -9], [0, -9], [0, -6], [0, -9])}
    outputs: Data = {"next_token_logprobs": arr([-8], [-9], [-9], [-8])}
    assert aot(batch, outputs, beta=1.0) == near((SP1 + SP2) / 2)
    assert aot(batch, outputs, beta=1.0, label_smoothing=0.5) == near((SP1 + SP2) / 2 - 0.75)
    # Log-ratios: chosen 1, -3 and rejected 0, 1; sorted -3, 1 less 0, 1 is -3, 0.
    assert aot_unpaired(batch, outputs, beta=1.0) == near((math.log1p(math.exp(3.0)) + LOG2) / 2)
    for oracle in (aot, aot_unpaired):
        counted = {**batch, "global_valid_seqs": np.array(8.0)}
        assert oracle(counted, outputs) == near(oracle(batch, outputs) / 2)
        # One absent row: its pair is out of both sorted lists.
        absent = {**batch, "sample_mask": np.array([1.0, 1.0, 1.0, 0.0])}
        absent["reference_policy_logprobs"] = absent["reference_policy_logprobs"].copy()
        absent["reference_policy_logprobs"][2:] = NAN
        assert oracle(absent, outputs, beta=1.0) == near(SP1 - 1)


def test_aot_laws() -> None:
    batch, outputs = random_tokens(13, rows=8)
    lp: Data = {"next_token_logprobs": gathered(batch, outputs)}
    value = aot_unpaired(batch, lp)
    order = np.array([4, 1, 0, 7, 2, 3, 6, 5])  # chosen among chosen, rejected among rejected, each in its own way
    assert aot_unpaired(permuted(batch, order), permuted(lp, order)) == near(value)
    one = np.array([2, 3])
    for oracle in (aot, aot_unpaired):
        for e in (0.0, 0.2):
            pair = permuted(batch, one), permuted(lp, one)
            assert oracle(*pair, label_smoothing=e) == near(cdpo(*pair, label_smoothing=e))
        # A pair of weight 2 is the pair twice.
        heavy = {**batch, "sample_mask": np.array([1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0])}
        twice = np.array([0, 1, 2, 3, 2, 3, 4, 5, 6, 7])
        assert oracle(heavy, lp) == near(oracle(permuted(batch, twice), permuted(lp, twice)))


def permuted(fields: Data, rows: Any) -> Data:
    return {name: value[rows] for name, value in fields.items()}


# --- all pair losses --------------------------------------------------------------------------------------------

PAIR_LOSSES: list[tuple[Oracle, bool]] = [  # and whether it is a sum over pairs
    *(
        (oracle, True)
        for oracle in (
            *(cdpo, robust_dpo, hinge_dpo, ipo, dpo_norm, exo_pair, discopop, ld_dpo, r_dpo),
            *(fdpo_forward_kl, fdpo_js, fdpo_alpha),
            *(nca_pair, bco_pair, sppo_hard, apo_zero, apo_down, dpop, cal_dpo),
            *(rpo_sq, rpo_fwd_kl, rpo_bwd_kl, odpo, rebel),
            *(orpo, cpo, simpo, alphapo, slic_hf),
        )
    ),
    (aot, False),
    (aot_unpaired, False),
]
WITHOUT_REFERENCE = (orpo, cpo, simpo, alphapo, slic_hf)


@pytest.mark.parametrize(("oracle", "additive"), PAIR_LOSSES)
def test_pair_losses_share_their_rules(oracle: Oracle, additive: bool) -> None:
    batch, outputs = random_tokens(14)
    batch["rewards"] = np.array([1.0, 0.25, -0.5, 1.0])
    value = oracle(batch, outputs)
    assert isinstance(value, float)
    assert math.isfinite(value)
    lp: Data = {"next_token_logprobs": gathered(batch, outputs)}
    assert oracle(batch, lp) == near(value)
    bare = {k: v for k, v in batch.items() if k not in ("sample_mask", "advantages", "prev_logprobs", "returns")}
    if oracle in WITHOUT_REFERENCE:
        del bare["reference_policy_logprobs"]
    assert oracle(bare, outputs) == near(value)
    # The order of the pairs, and every pair twice, change nothing.
    for rows in ([2, 3, 0, 1], [0, 1, 2, 3, 0, 1, 2, 3]):
        assert oracle(permuted(batch, rows), permuted(outputs, rows)) == near(value)
    # The lighter row's weight is the pair's: weights 1/2 and 1 over 1.5.
    weighted = {**batch, "sample_mask": np.array([1.0, 0.5, 1.0, 1.0])}
    parts = [oracle(permuted(batch, rows), permuted(outputs, rows)) for rows in ([0, 1], [2, 3])]
    if additive:
        assert value == near((parts[0] + parts[1]) / 2)
        assert oracle(weighted, outputs) == near((0.5 * parts[0] + parts[1]) / 1.5)
        # S_g = 4 sequences are 2 pairs: the halves add up.
        halves = [
            oracle(permuted(batch, rows) | {"global_valid_seqs": np.array(4.0)}, permuted(outputs, rows))
            for rows in ([0, 1], [2, 3])
        ]
        assert sum(halves) == near(value)
    # Untrained tokens and absent rows are never read.
    dirty, dirty_lp = {k: v.copy() for k, v in batch.items()}, lp["next_token_logprobs"].copy()
    dirty["reference_policy_logprobs"][:, 0] = NAN
    dirty["reference_policy_logprobs"][batch["token_mask"] == 0.0] = NAN
    dirty_lp[batch["token_mask"][:, 1:] == 0.0] = NAN
    dirty = {k: np.concatenate([v, np.full_like(v[:2], -7 if k == "input_ids" else NAN)]) for k, v in dirty.items()}
    dirty["token_mask"][4:] = 1.0
    dirty["sample_mask"][4:] = np.array([1.0, 0.0])
    assert oracle(dirty, {"next_token_logprobs": np.concatenate([dirty_lp, np.full((2, 5), NAN)])}) == near(value)
    assert oracle({**batch, "sample_mask": np.zeros(4)}, outputs) == 0.0


@pytest.mark.parametrize("oracle", [cdpo, robust_dpo, hinge_dpo, ipo, exo_pair, discopop, rpo_sq, odpo, rebel])
def test_losses_of_the_margin_ignore_a_common_shift(oracle: Oracle) -> None:
    value = oracle(*log_ratios(1.5, 0.25, rewards=(1, 0)))
    assert oracle(*log_ratios(4.5, 3.25, rewards=(8, 7))) == near(value)


@pytest.mark.parametrize("oracle", [nca_pair, bco_pair, sppo_hard, apo_zero, apo_down, cal_dpo])
def test_absolute_losses_feel_a_common_shift(oracle: Oracle) -> None:
    assert abs(oracle(*log_ratios(4.5, 3.25)) - oracle(*log_ratios(1.5, 0.25))) > 1e-3
