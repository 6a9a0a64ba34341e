"""Preference losses of pairs with a weight, an offset or a beta that comes from elsewhere: D = h_w - h_l, x = beta D."""

import math

from .counts import Fields, live_tokens, next_token_logprob, pair_count, pair_weights
from .numerics import exp, log_softmax, logsumexp, softplus
from .preference_rewards import reward_mean
from .preference_terms import absolute_mean, log_ratio_pair, logprob_pair, pair_mean, smoothed, trained_tokens


def alignment(batch: Fields, outputs: Fields, row: int) -> float:
    """sum_t tm [lp - log sum_v p_v^2] / max(n, 1), log sum_v p_v^2 = lse(2z) - 2 lse(z); logits z."""
    total = 0.0
    for b, t in live_tokens(batch):
        if b == row:
            z = [float(x) for x in outputs["logits"][b, t]]
            concentration = logsumexp([2.0 * x for x in z]) - 2.0 * logsumexp(z)
            total += float(batch["token_mask"][b, t + 1]) * (next_token_logprob(batch, outputs, b, t) - concentration)
    return total / max(trained_tokens(batch, row), 1.0)


def wpo(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    weighting: str = "aligned",
) -> float:
    """P23: W P2(x), pair mean.

    aligned  W = e^{g_w} e^{g_l}, g the mean over the row's trained tokens of lp - log sum_v p_v^2
    clamped  W = min(1, e^{a_w + a_l}), a the row's mean log-prob
    """
    if weighting not in ("aligned", "clamped"):
        raise ValueError(f"unknown weighting {weighting!r}")
    policy = {"logits": outputs["logits"]}

    def term(n: int) -> float:
        chosen, rejected = log_ratio_pair(batch, policy, n)
        if weighting == "aligned":
            weight = exp(alignment(batch, policy, 2 * n) + alignment(batch, policy, 2 * n + 1))
        else:
            weight = exp(min(0.0, sum(logprob_pair(batch, policy, n, average=True))))
        return weight * smoothed(beta * (chosen - rejected), label_smoothing)

    return pair_mean(batch, term)


def reference_margin(batch: Fields, outputs: Fields, n: int) -> float:
    """D of pair n, with the reference's log-probs from reference_logits."""
    scores = []
    for row in (2 * n, 2 * n + 1):
        h = 0.0
        for b, t in live_tokens(batch):
            if b == row:
                token = int(batch["input_ids"][b, t + 1])
                policy = log_softmax([float(z) for z in outputs["logits"][b, t]])[token]
                reference = log_softmax([float(z) for z in batch["reference_logits"][b, t]])[token]
                h += float(batch["token_mask"][b, t + 1]) * (policy - reference)
        scores.append(h)
    return scores[0] - scores[1]


def sequential_kl(batch: Fields, outputs: Fields, row: int) -> float:
    """K = sum_t tm KL(reference || policy) over the whole vocabulary; a token of reference probability 0 adds nothing."""
    total = 0.0
    for b, t in live_tokens(batch):
        if b != row:
            continue
        policy = log_softmax([float(z) for z in outputs["logits"][b, t]])
        reference = log_softmax([float(z) for z in batch["reference_logits"][b, t]])
        kl = 0.0
        for log_p, log_r in zip(policy, reference, strict=True):
            if math.exp(log_r) > 0.0:
                kl += math.exp(log_r) * (log_r - log_p)
        total += float(batch["token_mask"][b, t + 1]) * kl
    return total


def kl_offset(batch: Fields, outputs: Fields, beta: float, alpha: float) -> float:
    """Pair mean of -log sigma(beta (D - alpha (K_l - K_w)))."""

    def term(n: int) -> float:
        offset = sequential_kl(batch, outputs, 2 * n + 1) - sequential_kl(batch, outputs, 2 * n)
        return softplus(-beta * (reference_margin(batch, outputs, n) - alpha * offset))

    return pair_mean(batch, term)


def tdpo1(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """P33: -log sigma(beta (D - (K_l - K_w))), K the row's sum of KL(reference || policy)."""
    return kl_offset(batch, outputs, beta, 1.0)


def tdpo2(batch: Fields, outputs: Fields, *, beta: float = 0.1, alpha: float = 0.5) -> float:
    """P33: -log sigma(beta (D - alpha (K_l - sg(K_w)))); the value."""
    return kl_offset(batch, outputs, beta, alpha)


def selections(batch: Fields) -> list[float]:
    """The lesser selection_mask of every pair's rows; 1 where the batch has none."""
    pairs = batch["token_mask"].shape[0] // 2
    if "selection_mask" not in batch:
        return [1.0] * pairs
    mask = [float(x) for x in batch["selection_mask"]]
    return [min(mask[2 * n], mask[2 * n + 1]) for n in range(pairs)]


def mean_margin(batch: Fields, outputs: Fields, weights: list[float]) -> float:
    """The plain mean of D over the pairs of weight != 0; 0 where there is none."""
    margins = []
    for n, weight in enumerate(weights):
        if weight != 0.0:
            chosen, rejected = log_ratio_pair(batch, outputs, n)
            margins.append(chosen - rejected)
    return sum(margins) / len(margins) if margins else 0.0


def beta_dpo_state(batch: Fields, outputs: Fields, *, ema: float = 0.9, gap_mean: float = 0.0) -> float:
    """P34, M0 after a training batch: ema M0 + (1 - ema) mean D over all present pairs; without one, M0."""
    weights = pair_weights(batch, batch["token_mask"].shape[0])
    if not any(weights):
        return gap_mean
    return ema * gap_mean + (1.0 - ema) * mean_margin(batch, outputs, weights)


def beta_dpo(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.1,
    a: float = 0.6,
    ema: float = 0.9,
    gap_mean: float = 0.0,
) -> float:
    """P34: -log sigma(B D), B = max(beta (1 + a (mean D - M0)), 1e-3) with the mean over the selected present pairs.

    A pair weighs the lesser sample_mask times the lesser selection_mask of its rows; M0 = gap_mean, before its update.
    """
    present = pair_weights(batch, batch["token_mask"].shape[0])
    weights = [w * selected if w != 0.0 else 0.0 for w, selected in zip(present, selections(batch), strict=True)]
    scale = max(beta * (1.0 + a * (mean_margin(batch, outputs, weights) - gap_mean)), 1e-3)
    total = 0.0
    for n, weight in enumerate(weights):
        if weight != 0.0:
            chosen, rejected = log_ratio_pair(batch, outputs, n)
            total += weight * softplus(-scale * (chosen - rejected))
    return total / pair_count(batch, weights)


def rpo_scale(batch: Fields, outputs: Fields, *, beta: float = 0.2) -> float:
    """P36 scale: |rew_w - rew_l| (-log sigma(x))."""
    return reward_mean(batch, outputs, lambda margin, gap: abs(gap) * softplus(-beta * margin))


def sppo_soft(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """P16 soft: (h_w - c)^2 + (h_l + c)^2, c = (P - 1/2) / beta, P = preference_probability of the chosen row."""

    def term(n: int) -> float:
        chosen, rejected = log_ratio_pair(batch, outputs, n)
        target = (float(batch["preference_probability"][2 * n]) - 0.5) / beta
        return (chosen - target) ** 2 + (rejected + target) ** 2

    return pair_mean(batch, term)


def chi_po(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.1,
    log_ratio_limit: float = 20.0,
    reward_limit: float = 10.0,
) -> float:
    """P43: -log sigma(clip(beta (u(h_w) - u(h_l)), -2 R, 2 R)), u(h) = e^{min(h, log_ratio_limit)} + h, R = reward_limit."""
    bound = 2.0 * reward_limit

    def term(chosen: float, rejected: float) -> float:
        gap = exp(min(chosen, log_ratio_limit)) - exp(min(rejected, log_ratio_limit)) + (chosen - rejected)
        return softplus(-min(max(beta * gap, -bound), bound))

    return absolute_mean(batch, outputs, term)
