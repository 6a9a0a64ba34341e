"""Inference: what the fields a loss reads say about it."""

from __future__ import annotations

from typing import Any, Final

from loss_conformance.cases.slot import Schema

__all__ = ["infer"]

# In this order: the first rule whose inputs are all read decides the family.
_FAMILY_RULES: Final = (
    ("policy_gradient", ({"batch.advantages"},)),
    ("value", ({"model_outputs.values", "batch.returns"}, {"model_outputs.values", "batch.values"})),
    ("distillation", ({"batch.teacher_logits"}, {"batch.teacher_topk_logits"})),
    ("contrastive", ({"model_outputs.embeddings"}, {"batch.positive_pairs"})),
    ("reward", ({"model_outputs.rewards"}, {"pair.chosen_rewards"})),
    (
        "preference",
        (
            {"batch.reference_policy_logprobs", "model_outputs.next_token_logprobs"},
            {"batch.reference_policy_logprobs", "model_outputs.logits"},
            {"pair.policy_chosen_logps"},
        ),
    ),
    ("supervised", ({"model_outputs.next_token_logprobs"}, {"model_outputs.logits", "batch.input_ids"})),
)
_NON_NEGATIVE: Final = ("supervised", "preference", "value", "reward", "distillation", "contrastive")


def infer(schema: Schema, family: str | None = None) -> dict[str, tuple[Any, str]]:
    """Return fact name to (value, why) for what the inputs of a loss alone suggest.

    Args:
        schema: the inputs.
        family: the family when it is known already; the other facts follow from it.
    """
    facts: dict[str, tuple[Any, str]] = {}
    kinds = schema.kinds()
    if family is None:
        family = next((name for name, rules in _FAMILY_RULES if any(rule <= kinds for rule in rules)), None)
        if family is not None:
            rule = next(r for name, rules in _FAMILY_RULES if name == family for r in rules if r <= kinds)
            facts["family"] = (family, f"it reads {' and '.join(sorted(k.partition('.')[2] for k in rule))}")
    counts = sorted(k.partition(".")[2] for k in kinds if k.startswith("batch.global_valid"))
    if counts:
        facts["normalizer"] = ("global", f"it reads {' and '.join(counts)}")
    else:
        facts["normalizer"] = ("local", "it reads no global count")
    if family in ("preference", "reward") and not ({"batch.labels", "batch.rewards"} & kinds):
        facts["level"] = ("pair", f"a {family} loss without labels compares pairs")
    if family in _NON_NEGATIVE:
        facts["lower_bound"] = (0.0, f"{family} losses are usually at least 0")
    if family == "contrastive":
        facts["coupled"] = (True, "a contrastive term compares rows")
    return facts
