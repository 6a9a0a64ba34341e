"""The clipped value loss."""

from .counts import Fields, live_tokens, row_weight, token_count
from .value import counted


def value_clipped(
    batch: Fields, outputs: Fields, *, scale: float = 1.0, value_clip: float | None = 0.2, normalizer: str = "global"
) -> float:
    """1/2 scale sum m max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2) / T_g, c = value_clip; None is value_mse.

    v of outputs["values"], v_old of batch["values"], both at the token's own index.
    """
    total = 0.0
    for b, t in live_tokens(batch):
        weight = float(batch["token_mask"][b, t + 1]) * row_weight(batch, b)
        value = float(outputs["values"][b, t + 1])
        target = float(batch["returns"][b, t + 1])
        error = (value - target) ** 2
        if value_clip is not None:
            old = float(batch["values"][b, t + 1])
            clipped = min(max(value, old - value_clip), old + value_clip)
            error = max(error, (clipped - target) ** 2)
        total += weight * error
    return 0.5 * scale * total / token_count(counted(batch, normalizer))
