"""Preference losses without a reference policy: p sums of log-probs, a averages."""

import math

import numpy as np

from .counts import Fields, live_tokens, next_token_logprob, pair_weights
from .numerics import exp, softplus
from .preference_terms import logprob_pair, pair_mean, sequence_logprob, smoothed, trained_tokens


def log_one_minus_exp(x: float) -> float:
    """log(1 - e^x), x <= 0; -inf at 0."""
    if x >= 0.0:
        return -math.inf
    return math.log(-math.expm1(x)) if x > -math.log(2.0) else math.log1p(-math.exp(x))


def chosen_nll(batch: Fields, outputs: Fields, nll_average: str) -> float:
    """NLL of the chosen rows' trained (response) tokens.

    sequence  pair_mean of -a_w, the chosen row's mean over its own tokens
    sum       pair_mean of -p_w
    tokens    sum_n w_n sum_t tm (-lp) / max(sum_n w_n sum_t tm, 1) over the chosen rows of this batch
    """
    if nll_average in ("sequence", "sum"):
        return pair_mean(batch, lambda n: -sequence_logprob(batch, outputs, 2 * n, nll_average == "sequence"))
    if nll_average != "tokens":
        raise ValueError(f"unknown nll_average {nll_average!r}")
    weights = pair_weights(batch, batch["token_mask"].shape[0])
    total = 0.0
    count = 0.0
    for b, t in live_tokens(batch):
        if b % 2 == 0 and weights[b // 2] != 0.0:
            weight = weights[b // 2] * float(batch["token_mask"][b, t + 1])
            total -= weight * next_token_logprob(batch, outputs, b, t)
            count += weight
    return total / max(count, 1.0)


def prompt_and_response(batch: Fields) -> Fields:
    """The batch with every token before input_lengths [B] trained, or every token where there are no lengths."""
    mask = np.ones(batch["token_mask"].shape)
    if "input_lengths" in batch:
        for b, length in enumerate(batch["input_lengths"]):
            mask[b, int(length) :] = 0.0
    return {**batch, "token_mask": mask}


def orpo(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.1,
    nll_span: str = "response",
    nll_average: str = "sequence",
) -> float:
    """NLL_chosen - beta log sigma(o), o = (a_w - a_l) - (log(1 - e^{a_w}) - log(1 - e^{a_l})).

    o = 0 where a row has no trained token: its odds are undefined. The NLL is of the trained tokens (response) or of
    prompt_and_response (full).
    """
    if nll_span not in ("response", "full"):
        raise ValueError(f"unknown nll_span {nll_span!r}")

    def term(n: int) -> float:
        chosen, rejected = logprob_pair(batch, outputs, n, average=True)
        empty = trained_tokens(batch, 2 * n) == 0.0 or trained_tokens(batch, 2 * n + 1) == 0.0
        if empty or chosen == rejected:
            return softplus(0.0)
        odds = (chosen - rejected) - (log_one_minus_exp(chosen) - log_one_minus_exp(rejected))
        return softplus(-odds)

    imitated = prompt_and_response(batch) if nll_span == "full" else batch
    return chosen_nll(imitated, outputs, nll_average) + beta * pair_mean(batch, term)


def margin_term(gap: float, loss_type: str, beta: float, label_smoothing: float) -> float:
    """A term of the gap.

    sigmoid  cdpo at x = beta gap, with label_smoothing (in this form alone)
    hinge    max(0, 1 - x)
    ipo      (gap - 1/(2 beta))^2
    """
    if loss_type == "sigmoid":
        return smoothed(beta * gap, label_smoothing)
    if loss_type == "hinge":
        return max(0.0, 1.0 - beta * gap)
    if loss_type == "ipo":
        return float((gap - 0.5 / beta) ** 2)
    raise ValueError(f"unknown loss_type {loss_type!r}")


def cpo(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.1,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
    nll_average: str = "sequence",
) -> float:
    """margin_term of p_w - p_l, in ipo of a_w - a_l, plus alpha NLL_chosen."""

    def term(n: int) -> float:
        chosen, rejected = logprob_pair(batch, outputs, n, average=loss_type == "ipo")
        return margin_term(chosen - rejected, loss_type, beta, label_smoothing)

    value = pair_mean(batch, term)
    return value + alpha * chosen_nll(batch, outputs, nll_average) if alpha != 0.0 else value


def simpo(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.1,
    gamma: float = 0.5,
    label_smoothing: float = 0.0,
    nll_weight: float = 0.0,
    nll_average: str = "sequence",
) -> float:
    """cdpo's term at x = beta (a_w - a_l) - gamma, plus nll_weight NLL_chosen."""

    def term(n: int) -> float:
        chosen, rejected = logprob_pair(batch, outputs, n, average=True)
        return smoothed(beta * (chosen - rejected) - gamma, label_smoothing)

    value = pair_mean(batch, term)
    return value + nll_weight * chosen_nll(batch, outputs, nll_average) if nll_weight != 0.0 else value


def power_gap(chosen: float, rejected: float, alpha: float) -> float:
    """u(a_w) - u(a_l), u(a) = (1 - e^{-alpha a}) / alpha, with the larger of the two powers taken out."""
    if alpha == 0.0 or chosen == rejected:
        return chosen - rejected
    if -alpha * rejected >= -alpha * chosen:
        return -exp(-alpha * rejected) * math.expm1(-alpha * (chosen - rejected)) / alpha
    return exp(-alpha * chosen) * math.expm1(-alpha * (rejected - chosen)) / alpha


def alphapo(batch: Fields, outputs: Fields, *, beta: float = 0.1, alpha: float = 0.25, gamma: float = 0.5) -> float:
    """simpo with (1 - e^{-alpha a}) / alpha in place of a; alpha = 0 is simpo."""

    def term(n: int) -> float:
        chosen, rejected = logprob_pair(batch, outputs, n, average=True)
        return softplus(gamma - beta * power_gap(chosen, rejected, alpha))

    return pair_mean(batch, term)


def slic_hf(batch: Fields, outputs: Fields, *, delta: float = 1.0) -> float:
    """max(0, delta - p_w + p_l); without the SFT term."""

    def term(n: int) -> float:
        chosen, rejected = logprob_pair(batch, outputs, n)
        return max(0.0, delta - chosen + rejected)

    return pair_mean(batch, term)
