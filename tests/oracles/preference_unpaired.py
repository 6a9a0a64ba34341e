"""Preference losses of single rows, each labelled desirable (labels nonzero) or undesirable: r = beta h."""

from collections.abc import Callable

from .counts import Fields, row_weight, sequence_count
from .numerics import softplus
from .preference import sequence_log_ratio
from .preference_terms import sigmoid


def row_mean(batch: Fields, term: Callable[[int], float]) -> float:
    """sum_b w_b term(b) / max(S_g, 1), w = sample_mask; rows of weight 0 are not looked at."""
    rows = batch["token_mask"].shape[0]
    total = 0.0
    for b in range(rows):
        if row_weight(batch, b) != 0.0:
            total += row_weight(batch, b) * term(b)
    return total / sequence_count(batch, rows)


def desirable(batch: Fields, b: int) -> bool:
    """Whether row b's label is nonzero."""
    return float(batch["labels"][b]) != 0.0


def bco_state(
    batch: Fields, outputs: Fields, *, beta: float = 0.1, mean: float = 0.0, count: float = 0.0
) -> tuple[float, float]:
    """P15, the state after a training batch: (mean, count) of all r so far, each row of weight != 0 counted once."""
    total = mean * count
    for b in range(batch["token_mask"].shape[0]):
        if row_weight(batch, b) != 0.0:
            total += beta * sequence_log_ratio(batch, outputs, b, False)
            count += 1.0
    return (total / count if count > 0.0 else mean), count


def bco(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.1,
    mean: float = 0.0,
    count: float = 0.0,
    training: bool = True,
) -> float:
    """P15: -log sigma(r - d) where desirable, -u log sigma(-(r - d)) where not; row mean.

    d is the mean of the state, with this batch's r already in it when training.
    u = clamp(p / (1 - p + 1e-8), 0.5, 10) with p = desirable_probability, 1 where the batch has none.
    """
    shift = bco_state(batch, outputs, beta=beta, mean=mean, count=count)[0] if training else mean

    def term(b: int) -> float:
        centred = beta * sequence_log_ratio(batch, outputs, b, False) - shift
        if desirable(batch, b):
            return softplus(-centred)
        weight = 1.0
        if "desirable_probability" in batch:
            p = float(batch["desirable_probability"][b])
            weight = min(max(p / (1.0 - p + 1e-8), 0.5), 10.0)
        return weight * softplus(centred)

    return row_mean(batch, term)


def bounded_mean(
    batch: Fields, outputs: Fields, beta: float, z: float, desirable_weight: float, undesirable_weight: float
) -> float:
    """Row mean of lambda_D (1 - sigma(beta (h - z))) where desirable, lambda_U sigma(beta (h - z)) where not."""

    def term(b: int) -> float:
        x = beta * (sequence_log_ratio(batch, outputs, b, False) - z)
        return desirable_weight * sigmoid(-x) if desirable(batch, b) else undesirable_weight * sigmoid(x)

    return row_mean(batch, term)


def apo_zero_unpaired(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> float:
    """P21: lambda_D (1 - sigma(r)) where desirable, lambda_U sigma(r) where not; row mean."""
    return bounded_mean(batch, outputs, beta, 0.0, desirable_weight, undesirable_weight)


def kl_reference_point(batch: Fields) -> float:
    """P25's z: max(0, kl_reference_point), or else max(0, sum_b w_b x_b / max(sum_b w_b, 1)) of the local rows.

    x = mismatched_log_ratios, w = sample_mask.
    """
    if "kl_reference_point" in batch:
        return max(0.0, float(batch["kl_reference_point"]))
    total = 0.0
    weights = 0.0
    for b in range(batch["token_mask"].shape[0]):
        if row_weight(batch, b) != 0.0:
            total += row_weight(batch, b) * float(batch["mismatched_log_ratios"][b])
            weights += row_weight(batch, b)
    return max(0.0, total / max(weights, 1.0))


def kto(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> float:
    """P25: lambda_D (1 - sigma(beta (h - z))) where desirable, lambda_U (1 - sigma(beta (z - h))) where not."""
    return bounded_mean(batch, outputs, beta, kl_reference_point(batch), desirable_weight, undesirable_weight)
