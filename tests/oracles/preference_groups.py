"""Preference losses of K rows at a time: K responses with rewards, or triples (chosen, rejected, target)."""

import math
from collections.abc import Callable

import numpy as np

from .counts import Fields, live_tokens, next_token_logprob
from .groups import best_first, group_mean, group_weights
from .numerics import exp, log_softmax, logsumexp, softplus
from .preference import sequence_log_ratio
from .preference_terms import sequence_logprob, trained_tokens
from .preference_without_reference import margin_term, slic_hf


def rows_of(batch: Fields) -> int:
    """B."""
    return int(batch["token_mask"].shape[0])


def scores(batch: Fields, outputs: Fields, group: range, beta: float) -> list[float]:
    """r = beta h of every row of the group."""
    return [beta * sequence_log_ratio(batch, outputs, b, False) for b in group]


def rewards_of(batch: Fields, group: range) -> list[float]:
    """The group's rewards."""
    return [float(batch["rewards"][b]) for b in group]


def infonca(
    batch: Fields,
    outputs: Fields,
    *,
    group_size: int = 2,
    beta: float = 0.1,
    alpha: float = 1.0,
    variant: str = "infonca",
) -> float:
    """infonca, with q = softmax(rewards / alpha) over the group.

    infonca  -sum_k q_k log softmax(r)_k
    nca      -sum_k [q_k log sigma(r_k) + (1/K) log sigma(-r_k)]
    """

    def term(group: range) -> float:
        r = scores(batch, outputs, group, beta)
        targets = [math.exp(x) for x in log_softmax([reward / alpha for reward in rewards_of(batch, group)])]
        if variant == "infonca":
            return -sum(q * x for q, x in zip(targets, log_softmax(r), strict=True))
        if variant != "nca":
            raise ValueError(f"unknown variant {variant!r}")
        return sum(q * softplus(-x) + softplus(x) / group_size for q, x in zip(targets, r, strict=True))

    return group_mean(batch, rows_of(batch), group_size, term)


def target_nll(batch: Fields, outputs: Fields, nll_average: str) -> float:
    """NLL of the third rows of the triples.

    sequence  group mean of -p / max(n, 1)
    tokens    sum_g w_g sum_t tm (-lp) / max(sum_g w_g sum_t tm, 1) over this batch
    """
    if nll_average == "sequence":
        return group_mean(batch, rows_of(batch), 3, lambda group: -sequence_logprob(batch, outputs, group[2], True))
    if nll_average != "tokens":
        raise ValueError(f"unknown nll_average {nll_average!r}")
    weights = group_weights(batch, rows_of(batch), 3)
    total = 0.0
    count = 0.0
    for b, t in live_tokens(batch):
        if b % 3 == 2 and weights[b // 3] != 0.0:
            weight = weights[b // 3] * float(batch["token_mask"][b, t + 1])
            total -= weight * next_token_logprob(batch, outputs, b, t)
            count += weight
    return total / max(count, 1.0)


def with_target(
    batch: Fields, outputs: Fields, term: Callable[[range], float], tpo_alpha: float, nll_average: str
) -> float:
    """The group mean of term over triples, plus tpo_alpha NLL; an NLL of weight 0 is not computed."""
    value = group_mean(batch, rows_of(batch), 3, term)
    return value + tpo_alpha * target_nll(batch, outputs, nll_average) if tpo_alpha != 0.0 else value


def tpo(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.01,
    tpo_alpha: float = 1.0,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
    nll_average: str = "sequence",
) -> float:
    """tpo over triples (chosen, rejected, gold): margin_term of p_w - p_l, plus tpo_alpha NLL of the gold rows.

    In ipo the gap is that of the averages p / max(n, 1).
    """

    def term(group: range) -> float:
        chosen, rejected = (sequence_logprob(batch, outputs, b, loss_type == "ipo") for b in group[:2])
        return margin_term(chosen - rejected, loss_type, beta, label_smoothing)

    return with_target(batch, outputs, term, tpo_alpha, nll_average)


def tpo_l(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.01,
    tpo_alpha: float = 1.0,
    gamma: float = 0.5,
    nll_average: str = "sequence",
) -> float:
    """tpo, lengths averaged out: -log sigma(beta (a_w - a_l) - gamma), plus tpo_alpha NLL of the gold rows."""

    def term(group: range) -> float:
        chosen, rejected = (sequence_logprob(batch, outputs, b, True) for b in group[:2])
        return softplus(gamma - beta * (chosen - rejected))

    return with_target(batch, outputs, term, tpo_alpha, nll_average)


def slic_hf_with_target(batch: Fields, outputs: Fields, *, delta: float = 1.0, lambda_: float = 0.0) -> float:
    """slic_hf over triples: group mean of max(0, delta - p_w + p_l) - lambda p_target; lambda = 0 is slic_hf over pairs."""
    if lambda_ == 0.0:
        return slic_hf(batch, outputs, delta=delta)

    def term(group: range) -> float:
        chosen, rejected, target = (sequence_logprob(batch, outputs, b, False) for b in group)
        return max(0.0, delta - chosen + rejected) - lambda_ * target

    return group_mean(batch, rows_of(batch), 3, term)


def rrhf(
    batch: Fields,
    outputs: Fields,
    *,
    group_size: int = 2,
    length_penalty: float = 1.0,
    nll_weight: float = 1.0,
) -> float:
    """sum_g w_g [sum over i, j with rew_i < rew_j of max(0, s_i - s_j) - nll_weight p_best]; no divisor.

    s = p / max(n, 1)^length_penalty; best is the first row of the highest reward.
    """

    def term(group: range) -> float:
        rewards = rewards_of(batch, group)
        sums = [sequence_logprob(batch, outputs, b, False) for b in group]
        lengths = [max(trained_tokens(batch, b), 1.0) ** length_penalty for b in group]
        total = -nll_weight * sums[rewards.index(max(rewards))]
        for i in range(group_size):
            for j in range(group_size):
                if rewards[i] < rewards[j]:
                    total += max(0.0, sums[i] / lengths[i] - sums[j] / lengths[j])
        return total

    weights = group_weights(batch, rows_of(batch), group_size)
    total = 0.0
    for g, weight in enumerate(weights):
        if weight != 0.0:
            total += weight * term(range(group_size * g, group_size * (g + 1)))
    return total


def plackett_luce_dpo(batch: Fields, outputs: Fields, *, group_size: int = 2, beta: float = 0.1) -> float:
    """-sum_k [r_(k) - log sum_{j >= k} e^{r_(j)}], (1), (2), .. by falling rewards; group mean."""

    def term(group: range) -> float:
        r = scores(batch, outputs, group, beta)
        ranked = [r[b - group.start] for b in best_first(batch["rewards"], group)]
        return sum(logsumexp(ranked[k:]) - ranked[k] for k in range(group_size))

    return group_mean(batch, rows_of(batch), group_size, term)


def lipo(batch: Fields, outputs: Fields, *, group_size: int = 2, beta: float = 0.1) -> float:
    """plackett_luce_dpo, LiPO-lambda: sum over i, j with rew_i > rew_j of g_ij d_ij (-log sigma(s_i - s_j)); group mean.

    s = beta h; g_ij = |2^rew_i - 2^rew_j|; d_ij = |1/log(1 + rank_i) - 1/log(1 + rank_j)|, rank = 1, 2, .. by falling
    s, of equal ones the earlier row first.
    """

    def term(group: range) -> float:
        s = scores(batch, outputs, group, beta)
        rewards = rewards_of(batch, group)
        order = best_first(np.array(s), range(group_size))
        discounts = [1.0 / math.log(2.0 + order.index(k)) for k in range(group_size)]
        total = 0.0
        for i in range(group_size):
            for j in range(group_size):
                if rewards[i] > rewards[j]:
                    gain = abs(power_of_two(rewards[i]) - power_of_two(rewards[j]))
                    total += gain * abs(discounts[i] - discounts[j]) * softplus(s[j] - s[i])
        return total

    return group_mean(batch, rows_of(batch), group_size, term)


def power_of_two(x: float) -> float:
    """2^x, and inf where that overflows float64."""
    return float(2.0**x) if x < 1000.0 else exp(x * math.log(2.0))
