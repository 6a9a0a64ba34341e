"""Sizes a loss was constructed for: the number of classes, and of features, that its inputs must have."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from torch import Tensor, nn

from loss_conformance.cases.slot import Schema, Slot

__all__ = ["sized"]

_CLASSES: Final = ("num_classes", "n_classes", "num_labels", "n_labels", "classes", "nc", "vocab_size")
_FEATURES: Final = ("embedding_size", "embedding_dim", "embed_dim", "feature_dim", "feat_dim", "in_features")
_LEVELS: Final = ("quantiles", "quantile_levels", "taus")
_FEATURES_MORE: Final = ("descriptors_dim", "num_features", "hidden_size")


def sized(loss: Any, schema: Schema) -> tuple[Schema, ...]:
    """Return the schema with the letters V, D and Q replaced by the sizes that ``loss`` has, every guess worth trying."""
    schema = _with_levels(loss, schema)
    classes, features = _attribute(loss, _CLASSES), _attribute(loss, (*_FEATURES, *_FEATURES_MORE))
    guesses: list[tuple[int | None, int | None]]
    guesses = [(classes, features)] if features else [(classes, other) for other in _beside(loss, classes)]
    if not guesses and classes is None:
        # One matrix of its own holds a vector for each class, as a row or as a column.
        guesses = [(None, None), *((c, d) for shape in _matrices(loss) for c, d in (shape, shape[::-1]))]
    return tuple(_with_sizes(schema, c, d) for c, d in guesses or [(classes, None)])


def _with_levels(loss: Any, schema: Schema) -> Schema:
    """Return the schema with as many quantiles as the loss has levels."""
    levels = next((own for name in _LEVELS if (own := getattr(loss, name, None)) is not None), None)
    if not isinstance(levels, (list, tuple, Tensor)) or len(levels) < 2:
        return schema
    own = {"Q": str(len(levels))}
    return replace(schema, slots=tuple(replace(s, shape=tuple(own.get(x, x) for x in s.shape)) for s in schema.slots))


def _with_sizes(schema: Schema, classes: int | None, features: int | None) -> Schema:
    sizes = {letter: str(size) for letter, size in (("V", classes), ("D", features)) if size is not None}
    if not sizes:
        return schema
    embedded = any(slot.role == "embeddings" for slot in schema.slots)
    return replace(schema, slots=tuple(_sized(slot, sizes, embedded) for slot in schema.slots))


def _sized(slot: Slot, sizes: dict[str, str], embedded: bool) -> Slot:
    if "." in slot.kind:
        return slot  # its sizes are those of the vocabulary of the whole case
    high = slot.high
    if slot.role == "labels" and "V" in sizes and (high is None or embedded):
        high = float(sizes["V"])
    # The two axes of embeddings are all they have; elsewhere D is any number of entries.
    own = sizes if slot.role == "embeddings" else {letter: size for letter, size in sizes.items() if letter != "D"}
    return replace(slot, shape=tuple(own.get(letter, letter) for letter in slot.shape), high=high)


def _attribute(loss: Any, names: tuple[str, ...]) -> int | None:
    given = loss.keywords if isinstance(loss, functools.partial) else {}
    found = (given.get(name, getattr(loss, name, None)) for name in names)
    return next((x for x in found if isinstance(x, int) and not isinstance(x, bool) and x > 1), None)


def _beside(loss: Any, classes: int | None) -> list[int]:
    """Return the other axis of a matrix the loss owns, one of whose axes runs over classes."""
    if classes is None:
        return []
    fits: tuple[Callable[[int], bool], ...] = (lambda size: size == classes, lambda size: size % classes == 0)
    found = (
        shape[1 - axis]
        for fit, axis in itertools.product(fits, (0, 1))
        for shape in _matrices(loss)
        if fit(shape[axis])
    )
    return list(itertools.islice(found, 1))


def _matrices(loss: Any) -> list[tuple[int, int]]:
    own = loss.parameters() if isinstance(loss, nn.Module) else ()
    return [(p.shape[0], p.shape[1]) for p in itertools.islice(own, 1) if p.dim() == 2]
