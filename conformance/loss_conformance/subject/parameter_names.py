"""What a parameter means by its name: the names used in TRL, verl, OpenRLHF, torchtune, Liger and plain torch code."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from loss_conformance.cases.documents import SAYS_WHICH_DOCUMENT
from loss_conformance.subject.name_words import (
    BETTER,
    BETWEEN_ROWS,
    CHOSEN,
    COUNTED,
    EMBEDDED_THINGS,
    EXAMPLES,
    FILLER,
    GENERATION,
    HIDDEN,
    HOW_MANY,
    HOW_OFTEN,
    IMAGE,
    JUDGED,
    MEANINGS,
    NO_SCORES,
    OF_ANOTHER_KIND,
    OLD,
    POLICY,
    REFERENCE,
    REJECTED,
    ROUTING,
    SAID,
    SCORED,
    SCORES,
    VIEW,
    WORSE,
)
from loss_conformance.subject.sibling_names import meaning_beside
from loss_conformance.subject.written_names import bare, holder_of, holds_a_batch
from loss_reference.names import nearest_name

__all__ = ["SIZES", "TRAINABLE", "loose_meaning", "meaning_of", "meanings_of", "nearest_known"]

TRAINABLE: Final = frozenset(
    {
        *("logprobs", "values", "entropy", "student", "student_probabilities", "student_logprobs", "embedding"),
        *("scale", "bias", "probabilities", "prediction", "pair.policy_chosen_logps", "pair.policy_rejected_logps"),
        *("ratio", "log_ratio", "difference", "router", "router_probabilities", "judgement", "mean", "deviation"),
        *("log_deviation", "action_values", "hidden", "head", "negative_loglikelihood", "quantiles", "hazards", "risk"),
        *("similarity", "pair.policy_other_logps", "pair.chosen_rewards", "pair.rejected_rewards"),
        *("pair.chosen_logits", "pair.rejected_logits"),
    }
)
"""Meanings of what a model computes: these receive gradient, everything else is constant."""


_BEFORE: Final = {"logprobs": "old_logprobs", "values": "old_values"}

SIZES: Final = dict.fromkeys(("vocab_size", "num_classes", "n_classes", "num_labels", "vocabulary_size"), "V")
"""Parameters that repeat the size of an axis of another input."""


def meanings_of(parameters: Iterable[str]) -> dict[str, str | None]:
    """Return what each parameter means beside the others: of two kinds of values, those called so are the old ones.

    What a batch holds was there before the step: beside outputs of the model its log-probabilities are the old ones.
    """
    written = list(parameters)
    found = _meanings_together([bare(name) for name in written])
    places = {holder_of(name) for name in written}
    before = {name for name in written if len(places) > 1 and holds_a_batch(holder_of(name) or "")}
    meanings = {name: found[bare(name)] for name in written}
    return {name: _BEFORE.get(m or "", m) if name in before else m for name, m in meanings.items()}


def _meanings_together(names: list[str]) -> dict[str, str | None]:
    found = {name: meaning_beside(name, names) or meaning_of(name) or loose_meaning(name, names) for name in names}
    if "target" in found.values():
        # What a label points at may be a row of another embedding than its own.
        found |= {p: None for p, meaning in found.items() if meaning == "embedding" and meaning_of(p) is None}
    if list(found.values()).count("values") > 1:
        found |= {name: "old_values" for name in found if name in ("values", "value")}
    images = [name for name in found if IMAGE.fullmatch(_canonical(name))]
    if len(images) == 2:
        found[images[1]] = "target"
    if {"p", "z"} <= found.keys():
        found["p"] = "embedding"  # a prediction of the other view
    predictions = [name for name, meaning in found.items() if meaning == "prediction"]
    if "teacher" in found.values() and "student" not in found.values() and len(predictions) == 1:
        found[predictions[0]] = "student"
    return found


def meaning_of(parameter: str) -> str | None:
    """Return what a parameter means, or ``None`` when its name says nothing."""
    name = _canonical(parameter)
    if name in MEANINGS:
        return MEANINGS[name]
    if SAYS_WHICH_DOCUMENT.fullmatch(name):
        return "documents"
    if VIEW.fullmatch(name):
        return "embedding"
    if IMAGE.fullmatch(name) or SCORES.fullmatch(name):
        return "prediction"
    words = set(name.split("_"))
    if (words & {"mask", "masks"} or name.endswith("mask")) and not words & (HOW_MANY | HOW_OFTEN):
        return "token_mask"
    if words & (CHOSEN | REJECTED) or (words & {"w", "l"} and words & {"logp", "reward", "rewards"}):
        return _of_pair(words)
    if words & {"real", "fake"} and words & JUDGED:
        return "judgement"
    if words & SAID["embedding"] and words & EMBEDDED_THINGS:
        return "embedding"
    if "logp" in words:
        return _of_logprobs(words)
    return None


def loose_meaning(parameter: str, beside: Collection[str] = ()) -> str | None:
    """Return what a required parameter most likely means by one of its words, or ``None``: `est_targets`, `gt_score`.

    Args:
        parameter: its name.
        beside: the names of all required parameters.
    """
    if (together := meaning_beside(bare(parameter), [bare(name) for name in beside])) is not None:
        return together
    words = set(_canonical(parameter).split("_"))
    if words & COUNTED and words & HOW_MANY:
        return "count"
    if words & (BETTER | WORSE) and (words & SCORED or words in ({"r", "w"}, {"r", "l"}, {"chosen"}, {"rejected"})):
        return f"pair.{'chosen' if words & BETTER else 'rejected'}_rewards"
    if words & {"student", "teacher"}:
        return _of_model(words)
    if words in ({"weight"}, {"weights"}, {"loss", "weights"}, {"loss", "weight"}):
        return "entry_weights"
    if words & OF_ANOTHER_KIND:
        return None
    if words & {"logits", "logit"} and not words & (OLD | REFERENCE | GENERATION | ROUTING | BETWEEN_ROWS):
        return "prediction"
    for meaning, said in SAID.items():
        if words & said:
            return meaning
    return None


def _of_model(words: set[str]) -> str | None:
    """Return what an output of a student or a teacher is, by the other words: scores unless they say more."""
    said = words - {"student", "teacher"}
    if said & (OF_ANOTHER_KIND | NO_SCORES) or len(words & {"student", "teacher"}) > 1:
        return None
    if said & HIDDEN:
        return "embedding" if "student" in words else "teacher_embedding"
    return "student" if "student" in words else "teacher"


def nearest_known(parameter: str) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to ``parameter``, or the empty string."""
    return nearest_name(parameter, EXAMPLES)


def _canonical(parameter: str) -> str:
    name = bare(parameter).strip("_").lower()
    # log_prob, logprobs, log_probs, logps, log_p ... are one word.
    return re.sub(r"(?<![a-z])(l(og)?_?prob(abilitie|abilitys?)?s?|log_?ps?)(?![a-z])", "logp", name)


def _of_pair(words: set[str]) -> str | None:
    side = "chosen" if words & BETTER else "rejected"
    if words & {"reward", "rewards", "score", "scores", "r", "values", "logratio", "logratios"}:
        return f"pair.{side}_rewards"
    if words & {"length", "lengths", "len", "lens"}:
        return f"pair.{side}_lengths"
    if words & {"logits", "labels", "ids"} or ("logp" not in words and not words & {"policy", *REFERENCE}):
        return None
    return f"pair.{'reference' if words & REFERENCE else 'policy'}_{side}_logps"


def _of_logprobs(words: set[str]) -> str | None:
    if "kl" in words:
        return f"pair.{'reference' if words & REFERENCE else 'policy'}_other_logps"
    rest = words - {"logp"} - FILLER
    if rest & OLD:
        return "old_logprobs"
    if rest & REFERENCE:
        return "reference_logprobs"
    if rest & GENERATION:
        return "generation_logprobs"
    if "teacher" in rest:
        return "teacher_logprobs"
    if "student" in rest:
        return "student_logprobs"
    return "logprobs" if rest <= POLICY else None
