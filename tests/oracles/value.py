"""Value losses."""

from .counts import Fields, live_tokens, row_weight, token_count


def value_mse(batch: Fields, outputs: Fields, *, scale: float = 1.0) -> float:
    """1/2 scale sum m (v - R)^2 / T_g, with m, v and R of tokens 1 .. S-1, each at its own index."""
    total = 0.0
    for b, t in live_tokens(batch):
        weight = float(batch["token_mask"][b, t + 1]) * row_weight(batch, b)
        error = float(outputs["values"][b, t + 1]) - float(batch["returns"][b, t + 1])
        total += weight * error * error
    return 0.5 * scale * total / token_count(batch)
