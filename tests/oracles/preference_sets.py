"""Preference losses of the whole batch of pairs at once, by sorting."""

from .counts import Fields, pair_count, pair_weights
from .preference_terms import log_ratio_pair, logprob_pair, smoothed

Weighted = list[tuple[float, float]]  # (value, weight)


def quantile_coupling(left: Weighted, right: Weighted) -> list[tuple[float, float]]:
    """(difference, weight) of equal quantiles of two weighted sets of one total weight.

    With all weights equal: the k-th smallest of the left minus the k-th smallest of the right.
    """
    ups, downs = sorted(left), sorted(right)
    coupled = []
    i = j = 0
    up_left, down_left = ups[0][1], downs[0][1]
    while True:
        weight = min(up_left, down_left)
        coupled.append((ups[i][0] - downs[j][0], weight))
        up_left, down_left = up_left - weight, down_left - weight
        if up_left <= 1e-12:
            i += 1
        if down_left <= 1e-12:
            j += 1
        if i == len(ups) or j == len(downs):
            return coupled
        up_left = ups[i][1] if up_left <= 1e-12 else up_left
        down_left = downs[j][1] if down_left <= 1e-12 else down_left


def transported(batch: Fields, left: Weighted, right: Weighted, beta: float, e: float) -> float:
    """sum weight cdpo(beta d) / pairs over the coupled differences d; 0 where no pair is present."""
    if not left:
        return 0.0
    total = 0.0
    for difference, weight in quantile_coupling(left, right):
        total += weight * smoothed(beta * difference, e)
    return total / pair_count(batch, pair_weights(batch, batch["token_mask"].shape[0]))


def aot(batch: Fields, outputs: Fields, *, beta: float = 0.1, label_smoothing: float = 0.0) -> float:
    """cdpo at beta d, d = sort(p_w - p_l) - sort(ref_w - ref_l), over the pairs of weight > 0."""
    policy: Weighted = []
    reference: Weighted = []
    for n, weight in enumerate(pair_weights(batch, batch["token_mask"].shape[0])):
        if weight != 0.0:
            chosen, rejected = logprob_pair(batch, outputs, n)
            # The reference's log-probs, read the same way: entry t of [:, 1:] speaks of token t+1.
            ref_chosen, ref_rejected = logprob_pair(
                batch, {"next_token_logprobs": batch["reference_policy_logprobs"][:, 1:]}, n
            )
            policy.append((chosen - rejected, weight))
            reference.append((ref_chosen - ref_rejected, weight))
    return transported(batch, policy, reference, beta, label_smoothing)


def aot_unpaired(batch: Fields, outputs: Fields, *, beta: float = 0.1, label_smoothing: float = 0.0) -> float:
    """cdpo at beta d, d = sort(h_w) - sort(h_l), over the pairs of weight > 0."""
    above: Weighted = []
    below: Weighted = []
    for n, weight in enumerate(pair_weights(batch, batch["token_mask"].shape[0])):
        if weight != 0.0:
            chosen, rejected = log_ratio_pair(batch, outputs, n)
            above.append((chosen, weight))
            below.append((rejected, weight))
    return transported(batch, above, below, beta, label_smoothing)
