"""Reference losses a loss is named after: a guess, and often the only witness to a dropped factor."""

from __future__ import annotations

import re
from typing import Any, Final

from loss_conformance.subject.subject import Subject
from loss_reference.registry import registry

__all__ = ["is_reference", "namesakes"]

_ALSO_CALLED: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("crossentropy", "ce", "sft"), ("nll", "label_smoothed_ce")),
    **dict.fromkeys(("jsd", "gkd"), ("generalized_jsd",)),
    **dict.fromkeys(("kd", "distillation", "distill"), ("hinton_kd", "forward_kl", "reverse_kl", "soft_ce")),
    **dict.fromkeys(("value", "critic", "valuefunction"), ("value_clipped", "value_mse")),
    **dict.fromkeys(("labelsmoothing", "labelsmoother"), ("label_smoothed_ce",)),
    **{kind: (f"kl_{kind}",) for kind in ("k1", "k2", "k3")},
    "forwardkl": ("forward_kl", "soft_ce"),
    **{f"{skewed}{way}kl": (f"skew_{way}_kl",) for skewed in ("skew", "skewed") for way in ("forward", "reverse")},
    "focal": ("focal_ce",),
    "clip": ("clip_symmetric",),
    "ppo": ("ppo_clip", "ppo_dual_clip"),
}
_WEAK: Final = {
    "nll",
    "crossentropy",
    "ce",
    "sft",
    "kd",
    "distillation",
    "distill",
    "value",
    "critic",
    "clip",
    "focal",
    "k1",
    "k2",
    "k3",
}
"""Names that are part of many others: they count where nothing else is said, and never in a docstring."""

_SAYS_NOTHING: Final = {
    "my",
    "our",
    "custom",
    "simple",
    "plain",
    "naive",
    "fast",
    "stable",
    "masked",
    "chunked",
    "fused",
}
_SAYS_NOTHING_MORE: Final = {"token", "sequence", "batch", "compute", "calculate", "torch", "reference", "policy"}
_OF_PARTS: Final = {"with", "plus", "and", "hybrid", "combined", "joint", "multi", "weighted", "regularized"}

_AMBIGUOUS: Final = {
    "contrastive",
    "infonce",
    "circle",
    "tripletmargin",
    "npairs",
    "tokenmask",
    "onpolicy",
    "draft",
    "sdft",
}
"""Registered words that say too little, or that name several losses in the literature."""


def namesakes(subject: Subject) -> tuple[str, ...]:
    """Return the registered names that a loss bears in its own: ``WeightedIPOLoss`` bears ``ipo``; none for references.

    The longest run of words that is a name decides, so ``cdpo`` is not ``dpo``, and ``DrGRPO`` not ``grpo``. Where the
    name says nothing, the first clause of the docstring may.
    """
    import loss_reference  # noqa: F401 - its import registers every loss

    if is_reference(subject.loss):
        return ()
    table = _table()
    strong = {name: found for name, found in table.items() if name not in _WEAK}
    return _borne_by(_words(_own_name(subject)), table) or _borne_by(_summary(subject), strong)


def _borne_by(words: list[str], table: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    if _OF_PARTS & set(words):
        return ()
    for size in range(len(words), 0, -1):
        for start in range(len(words) - size + 1):
            run = "".join(words[start : start + size])
            others = {*words[:start], *words[start + size :]} - _SAYS_NOTHING - _SAYS_NOTHING_MORE
            if run in table and not (others and run in _WEAK):
                return _with_variants(table[run])
    return ()


def _with_variants(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names with those of registered variants: whoever writes ``AOTLoss`` may mean ``aot_unpaired``."""
    families = {name: registry.get(name).contract.family for name in registry.names()}
    more = (
        variant
        for name in names
        for variant in families
        if variant.startswith(f"{name}_") and families[variant] == families.get(name)
    )
    return tuple(dict.fromkeys((*names, *more)))


def _table() -> dict[str, tuple[str, ...]]:
    registered = {
        name.replace("_", ""): (name,) for name in registry.names() if registry.get(name).contract.family != "composite"
    }
    return {name: found for name, found in {**registered, **_ALSO_CALLED}.items() if name not in _AMBIGUOUS}


def is_reference(loss: Any) -> bool:
    """Return whether the loss is one of the references, or a variation of one that says so by subclassing it."""
    classes = set(registry.registry.values())
    return any(cls in classes for cls in type(loss).__mro__)


def _own_name(subject: Subject) -> str:
    return str(_named(subject).__name__)


def _named(subject: Subject) -> Any:
    """Return what bears the loss's name and docstring: the function, or the class of an object."""
    return subject.loss if isinstance(getattr(subject.loss, "__name__", None), str) else type(subject.loss)


def _summary(subject: Subject) -> list[str]:
    """Return the words of the first clause of the loss's own docstring."""
    clause = re.split(r"[.;:\n]", _named(subject).__doc__ or "", maxsplit=1)[0]
    return [word for part in re.findall(r"\w+", clause) for word in _words(part)]


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case: of ``KLDistill``, ``kl_k3_loss`` and ``InfoNCELoss``."""
    split = re.sub(r"([a-z0-9])([A-Z])|([A-Z]+)([A-Z][a-z])", r"\1\3_\2\4", name)
    return [word for word in split.lower().split("_") if word and word not in ("loss", "fn", "criterion")]
