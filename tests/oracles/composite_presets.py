"""Composites of a fixed make: preference losses with an NLL, an actor with its critic, a draft model beside its policy."""

from collections.abc import Callable
from typing import Any

from .counts import Fields, TokenTerms, aggregate, live_tokens
from .distillation import cross_entropy
from .numerics import log_softmax
from .policy_gradient import grpo, ppo_clip
from .policy_gradient_penalties import entropy_bonus, kl_k3
from .preference import dpo
from .preference_absolute import bco_pair
from .preference_without_reference import chosen_nll
from .supervised import nll
from .value import value_mse
from .value_clipping import value_clipped

COMPONENTS: dict[str, Callable[..., float]] = {
    "dpo": dpo,
    "grpo": grpo,
    "nll": nll,
    "ppo_clip": ppo_clip,
    "value_clipped": value_clipped,
    "value_mse": value_mse,
}


def component(batch: Fields, outputs: Fields, config: dict[str, Any]) -> float:
    """The oracle config["type"] with the config's other settings."""
    settings = {key: value for key, value in config.items() if key != "type"}
    if config["type"] not in COMPONENTS:
        raise ValueError(f"unknown component {config['type']!r}")
    return COMPONENTS[config["type"]](batch, outputs, **settings)


def rpo_nll(
    batch: Fields, outputs: Fields, *, beta: float = 0.1, alpha: float = 1.0, nll_average: str = "sequence"
) -> float:
    """dpo + alpha NLL_chosen; an NLL of weight 0 is not computed."""
    value = dpo(batch, outputs, beta=beta)
    return value + alpha * chosen_nll(batch, outputs, nll_average) if alpha != 0.0 else value


def custom(batch: Fields, outputs: Fields, *, beta: float = 0.1, custom_weight: float = 1.0) -> float:
    """dpo + custom_weight NLL_chosen, where no subclass says what else to add."""
    return rpo_nll(batch, outputs, beta=beta, alpha=custom_weight)


def mpo(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.1,
    preference_weight: float = 0.8,
    quality_weight: float = 0.2,
    generation_weight: float = 1.0,
    nll_average: str = "sequence",
) -> float:
    """preference dpo + quality bco_pair + generation NLL_chosen; a part of weight 0 is not computed."""
    total = 0.0
    if preference_weight != 0.0:
        total += preference_weight * dpo(batch, outputs, beta=beta)
    if quality_weight != 0.0:
        total += quality_weight * bco_pair(batch, outputs, beta=beta)
    if generation_weight != 0.0:
        total += generation_weight * chosen_nll(batch, outputs, nll_average)
    return total


def actor_critic_total(
    batch: Fields,
    outputs: Fields,
    *,
    policy: dict[str, Any] | None = None,
    value: dict[str, Any] | None = None,
    value_coefficient: float = 0.5,
    entropy_coefficient: float = 0.0,
    kl_coefficient: float = 0.0,
) -> float:
    """policy + c_v value - c_H H + c_K k3(lp - lp_ref), H and k3 means over tokens; what weighs 0 is not computed.

    policy is ppo_clip and value value_mse unless given.
    """
    total = component(batch, outputs, policy or {"type": "ppo_clip"})
    if value_coefficient != 0.0:
        total += value_coefficient * component(batch, outputs, value or {"type": "value_mse"})
    if entropy_coefficient != 0.0:
        total += entropy_bonus(batch, outputs, coefficient=entropy_coefficient)
    if kl_coefficient != 0.0:
        total += kl_k3(batch, outputs, coefficient=kl_coefficient)
    return total


def draft(
    batch: Fields,
    outputs: Fields,
    *,
    policy: dict[str, Any] | None = None,
    draft_weight: float = 1.0,
    temperature: float = 1.0,
    ahead: int = 0,
) -> float:
    """policy + draft_weight sum_bt m[b,t] CE(p[b,t], q[b,t-ahead]) / T_g; policy is nll unless given.

    p = softmax(logits / temperature) as a constant, q = softmax(draft_logits / temperature). What the policy says at t
    the draft model has to say `ahead` positions before; positions before the first add nothing and stay in T_g.
    """
    total = component(batch, outputs, policy or {"type": "nll"})
    if draft_weight == 0.0:
        return total
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        if t >= ahead:
            log_p = log_softmax([float(z) / temperature for z in outputs["logits"][b, t]])
            log_q = log_softmax([float(z) / temperature for z in outputs["draft_logits"][b, t - ahead]])
            terms[b, t] = cross_entropy(log_p, log_q)
    return total + draft_weight * aggregate(terms, batch, "token_mean", None)
