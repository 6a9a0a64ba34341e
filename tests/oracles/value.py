"""Value losses."""

from .counts import Fields, live_tokens, row_weight, token_count


def counted(batch: Fields, normalizer: str) -> Fields:
    """The batch as it is (global), or without global_valid_toks (local)."""
    if normalizer not in ("global", "local"):
        raise ValueError(f"unknown normalizer {normalizer!r}")
    return batch if normalizer == "global" else {k: x for k, x in batch.items() if k != "global_valid_toks"}


def value_mse(batch: Fields, outputs: Fields, *, scale: float = 1.0, normalizer: str = "global") -> float:
    """1/2 scale sum m (v - R)^2 / T_g, with m, v and R of tokens 1 .. S-1, each at its own index."""
    total = 0.0
    for b, t in live_tokens(batch):
        weight = float(batch["token_mask"][b, t + 1]) * row_weight(batch, b)
        error = float(outputs["values"][b, t + 1]) - float(batch["returns"][b, t + 1])
        total += weight * error * error
    return 0.5 * scale * total / token_count(counted(batch, normalizer))
