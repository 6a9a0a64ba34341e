"""Inference: what the fields a loss reads say about it."""

from __future__ import annotations

from typing import Any, Final

from loss_conformance.cases.slot import Schema
from loss_conformance.facts.coupling import Coupling
from loss_conformance.facts.facts import Facts

__all__ = ["infer"]

_SAMPLED_TEACHER: Final = "batch.teacher_logprobs"
# In this order: the first rule whose inputs are all read decides the family.
_FAMILY_RULES: Final = (
    ("auxiliary", ({"router"}, {"router_probabilities"})),
    ("policy_gradient", ({"batch.advantages"}, {"token_rewards", "model_outputs.next_token_logprobs"})),
    ("value", ({"model_outputs.values", "batch.returns"}, {"model_outputs.values", "batch.values"})),
    ("distillation", ({"batch.teacher_logits"}, {"batch.teacher_topk_logits"}, {_SAMPLED_TEACHER})),
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
    (
        "policy_gradient",
        (
            {"batch.rewards", "model_outputs.next_token_logprobs"},
            {"batch.rewards", "model_outputs.logits", "batch.input_ids"},
        ),
    ),
    ("supervised", ({"model_outputs.next_token_logprobs"}, {"model_outputs.logits", "batch.input_ids"})),
)
_COMPARES: Final = (Coupling.ROWS, Coupling.PAIRED_ROWS)
_UNPAIRED: Final = {"batch.labels", "batch.rewards"}
_NON_NEGATIVE: Final = ("supervised", "preference", "value", "reward", "distillation", "contrastive")


def infer(schema: Schema, known: Facts, coupling: Coupling = Coupling.UNKNOWN) -> dict[str, tuple[Any, str]]:
    """Return fact name to (value, why) for what the inputs of a loss, and how its rows hang together, suggest.

    Args:
        schema: the inputs.
        known: what is declared or inherited; the rest follows from it.
        coupling: how rows hang together, as measured.
    """
    facts: dict[str, tuple[Any, str]] = {}
    kinds = schema.kinds()
    family = known.contract.family
    if family is None:
        family, why = _family(kinds, coupling)
        if family is not None:
            facts["family"] = (family, why)
    counts = sorted(k.partition(".")[2] for k in kinds if k.startswith("batch.global_valid"))
    facts["normalizer"] = (
        ("global", f"it reads {' and '.join(counts)}") if counts else ("local", "it reads no global count")
    )
    if coupling.paired:
        facts["level"] = ("pair", f"measured: {coupling}")
    elif family in ("preference", "reward") and coupling is Coupling.UNKNOWN and not (_UNPAIRED & kinds):
        facts["level"] = ("pair", f"a {family} loss without labels compares pairs")
    rewarded = "family" in facts and "batch.rewards" in kinds  # two answers to a prompt, graded, are a pair as well
    sampled = _SAMPLED_TEACHER in kinds  # a divergence estimated from the sampled tokens alone has either sign
    if family in _NON_NEGATIVE and not (rewarded or sampled or known.contract.surrogate_gradient):
        facts["lower_bound"] = (0.0, f"{family} losses are usually at least 0")
    if family == "distillation" and sampled:
        facts["surrogate_gradient"] = (True, "of a divergence of sampled tokens the gradient is an estimate of its own")
    if coupling.paired and "batch.reference_logits" in kinds:
        facts["surrogate_gradient"] = (True, "a divergence of one side of a pair is usually held fixed")
    if family == "contrastive" and coupling is Coupling.UNKNOWN:
        facts["coupled"] = (True, "a contrastive term compares rows")
    elif family == "contrastive" and coupling.across:
        facts["coupled"] = (True, f"measured: {coupling}")
    elif coupling.across and any(slot.role == "embeddings" and slot.trainable for slot in schema.slots):
        facts["coupled"] = (True, f"it compares embeddings; measured: {coupling}")
    elif "risk" in kinds:
        facts["coupled"] = (True, "who is still at risk is asked of the whole batch")
    elif coupling.across and family == "auxiliary":
        facts["coupled"] = (True, f"the load of experts is that of the whole batch; measured: {coupling}")
    elif coupling in _COMPARES and family == "policy_gradient" and "batch.rewards" in kinds:
        facts["coupled"] = (True, f"a baseline comes from the rewards of the batch; measured: {coupling}")
    return facts


def _family(kinds: set[str], coupling: Coupling) -> tuple[str | None, str]:
    for family, rules in _FAMILY_RULES:
        for rule in rules:
            if rule <= kinds:
                why = f"it reads {' and '.join(sorted(kind.partition('.')[2] for kind in rule))}"
                of_rows = not any(kind.startswith("pair.") for kind in rule)
                if family == "preference" and of_rows and coupling is Coupling.NONE and not _UNPAIRED & kinds:
                    return None, ""  # it compares with a reference, and no row with another
                if (
                    family == "preference"
                    and of_rows
                    and coupling is Coupling.NONE
                    and _UNPAIRED & kinds == {"batch.rewards"}
                ):
                    break  # rewards of single answers, beside a penalty for leaving the reference
                if family == "policy_gradient" and coupling.paired and "batch.advantages" not in kinds:
                    break  # a preference loss that is told how much better one answer is
                if family == "supervised" and coupling.paired:
                    return "preference", f"{why}, and compares them in pairs"
                return family, why
    return None, ""
