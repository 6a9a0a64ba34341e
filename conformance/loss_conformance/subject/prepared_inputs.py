"""What NeMo RL prepares for a loss before it calls it, by the loss's ``input_type``."""

from __future__ import annotations

from typing import Any, Final

from loss_conformance.cases.slot import Slot
from loss_conformance.subject.torch_slots import argument

__all__ = ["COUNTS", "forms_of", "input_type"]

COUNTS: Final = (
    argument("global_valid_seqs", "count", "", kind="batch.global_valid_seqs"),
    argument("global_valid_toks", "count", "", kind="batch.global_valid_toks"),
)
"""The counts over the global batch, which every loss is given."""

_BY_TYPE: Final[dict[str, tuple[str, ...]]] = {
    "LOGIT": ("logits",),
    "LOGPROB": ("next_token_logprobs",),
    "DISTILLATION": ("student_topk_logprobs", "teacher_topk_logprobs", "H_all"),
    "DRAFT": ("teacher_logits", "student_logits"),
}

_LOGITS: Final = "model_outputs.logits"
_FORMS: Final[dict[str, tuple[Slot, ...]]] = {
    # Token logits of a language model, values of a value head, rewards of a reward head.
    "logits": (
        argument("logits", "logits", "B S V", kind=_LOGITS, shift=1, trainable=True),
        argument("logits", "values", "B S 1", kind="model_outputs.values", trainable=True),
        argument("logits", "rewards", "B 1", kind="model_outputs.rewards", trainable=True),
    ),
    # As its losses were called before there was an ``input_type``.
    "next_token_logits": (argument("next_token_logits", "logits", "B S V", kind=_LOGITS, shift=1, trainable=True),),
    "rewards": (
        argument("rewards", "rewards", "B", kind="model_outputs.rewards", trainable=True),
        argument("rewards", "rewards", "B 1", kind="model_outputs.rewards", trainable=True),
    ),
    "next_token_logprobs": (
        argument(
            *("next_token_logprobs", "logprobs", "B S-1"),
            kind="model_outputs.next_token_logprobs",
            shift=1,
            trainable=True,
        ),
    ),
    "student_topk_logprobs": (
        argument(
            *("student_topk_logprobs", "logprobs", "B S-1 K"),
            kind="prepared.student_topk_logprobs",
            shift=1,
            trainable=True,
        ),
    ),
    "teacher_topk_logprobs": (
        argument("teacher_topk_logprobs", "logprobs", "B S-1 K", kind="prepared.teacher_topk_logprobs", shift=1),
    ),
    "H_all": (argument("H_all", "values", "B S-1", kind="prepared.negative_entropy", shift=1, trainable=True),),
    "teacher_logits": (argument("teacher_logits", "logits", "B S V", kind="batch.teacher_logits", shift=1),),
    "student_logits": (argument("student_logits", "logits", "B S V", kind=_LOGITS, shift=1, trainable=True),),
}


def input_type(loss: Any) -> tuple[str, ...]:
    """Return the names of the inputs that belong to the ``input_type`` of a loss, an enumeration member or a text."""
    declared = getattr(loss, "input_type", None)
    written = getattr(declared, "name", declared)
    return _BY_TYPE.get(str(written).upper(), ())


def forms_of(name: str) -> tuple[Slot, ...]:
    """Return the forms in which a prepared input may come, the likeliest first; none when it is not known."""
    return _FORMS.get(name, ())
