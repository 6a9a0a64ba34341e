"""Auxiliary losses of mixture-of-experts routers, over the tokens of all layers in one pool."""

import math

from .counts import Fields, row_weight
from .numerics import log_softmax, logsumexp


def routed_tokens(batch: Fields, outputs: Fields) -> list[tuple[float, list[float]]]:
    """(weight, router logits) of every token of every layer; weight attention_mask sample_mask, those of 0 left out."""
    rows, width, layers, _ = outputs["router_logits"].shape
    found = []
    for b in range(rows):
        for t in range(width):
            attention = float(batch["attention_mask"][b, t]) if "attention_mask" in batch else 1.0
            if row_weight(batch, b) == 0.0 or attention == 0.0:
                continue
            for layer in range(layers):
                logits = [float(z) for z in outputs["router_logits"][b, t, layer]]
                found.append((attention * row_weight(batch, b), logits))
    return found


def largest(logits: list[float], k: int) -> list[int]:
    """The places of the k largest logits, the earlier place first where logits are equal."""
    return sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:k]


def moe_load_balance(
    batch: Fields, outputs: Fields, *, top_k: int = 2, normalize_by_k: bool = False, coefficient: float = 1.0
) -> float:
    """X1: coefficient E sum_i f_i P_i over the E experts, over k as well with normalize_by_k.

    f_i is the weighted share of tokens with expert i among their k largest logits, so that sum f = k; P_i the
    weighted mean of the router's probability of i.
    """
    experts = int(outputs["router_logits"].shape[-1])
    chosen = [0.0] * experts
    probability = [0.0] * experts
    weights = 0.0
    for weight, logits in routed_tokens(batch, outputs):
        weights += weight
        for i in largest(logits, top_k):
            chosen[i] += weight
        for i, logprob in enumerate(log_softmax(logits)):
            probability[i] += weight * math.exp(logprob)
    divisor = max(weights, 1.0)
    value = coefficient * experts * sum(f / divisor * p / divisor for f, p in zip(chosen, probability, strict=True))
    return value / top_k if normalize_by_k else value


def router_z_loss(batch: Fields, outputs: Fields, *, coefficient: float = 1.0) -> float:
    """X2: coefficient times the weighted mean over tokens and layers of logsumexp(z)^2."""
    total = 0.0
    weights = 0.0
    for weight, logits in routed_tokens(batch, outputs):
        total += weight * logsumexp(logits) ** 2
        weights += weight
    return coefficient * total / max(weights, 1.0)
