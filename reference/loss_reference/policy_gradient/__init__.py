"""Policy-gradient losses: advantages say how much better a sampled token was than expected."""
