"""Reward-model losses of single rows, or of single steps of a row."""

from collections.abc import Callable

from .counts import Fields, row_weight, sequence_count
from .numerics import log_softmax, softplus


def reward_row_mean(batch: Fields, outputs: Fields, term: Callable[[int, float], float]) -> float:
    """sum_b sample_mask[b] term(b, rho_b) / S_g."""
    rows = outputs["rewards"].shape[0]
    total = 0.0
    for b in range(rows):
        weight = row_weight(batch, b)
        if weight != 0.0:
            total += weight * term(b, float(outputs["rewards"][b]))
    return total / sequence_count(batch, rows)


def reward_regression(batch: Fields, outputs: Fields) -> float:
    """R6: (rho - score)^2, over rows."""
    return reward_row_mean(batch, outputs, lambda b, rho: (rho - float(batch["scores"][b])) ** 2)


def orm_bce(batch: Fields, outputs: Fields) -> float:
    """R7, outcomes: -y log sigma(rho) - (1-y) log sigma(-rho), y the row's label, over rows."""

    def term(b: int, rho: float) -> float:
        y = float(batch["labels"][b])
        return y * softplus(-rho) + (1.0 - y) * softplus(rho)

    return reward_row_mean(batch, outputs, term)


def prm_token_ce(batch: Fields, outputs: Fields) -> float:
    """R7, steps: sum m (-log p_label) / T over the tokens 1 .. S-1 whose step label is not -100.

    Logits, label and m = token_mask sample_mask are all read at the token's own index; T = global_valid_toks, or
    else the sum of m over the labelled tokens, at least 1.
    """
    rows, width = batch["step_labels"].shape
    total = 0.0
    count = 0.0
    for b in range(rows):
        for t in range(1, width):
            label = int(batch["step_labels"][b, t])
            if row_weight(batch, b) == 0.0 or float(batch["token_mask"][b, t]) == 0.0 or label == -100:
                continue
            m = row_weight(batch, b) * float(batch["token_mask"][b, t])
            total += m * -log_softmax([float(z) for z in outputs["logits"][b, t]])[label]
            count += m
    if "global_valid_toks" in batch:
        count = float(batch["global_valid_toks"])
    return total / max(count, 1.0)
