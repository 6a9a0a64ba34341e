"""Sizes a loss was constructed for: the number of classes, and of features, that its inputs must have."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from torch import nn

from loss_conformance.cases.slot import Schema, Slot

__all__ = ["sized"]

_CLASSES: Final = ("num_classes", "n_classes", "num_labels", "n_labels", "classes", "vocab_size")
_FEATURES: Final = ("embedding_size", "embedding_dim", "embed_dim", "feature_dim", "feat_dim", "in_features")
_FEATURES_MORE: Final = ("descriptors_dim", "num_features", "hidden_size")


def sized(loss: Any, schema: Schema) -> Schema:
    """Return the schema with the letters V and D replaced by the sizes that ``loss`` says it has."""
    classes = _attribute(loss, _CLASSES)
    features = _attribute(loss, (*_FEATURES, *_FEATURES_MORE)) or _beside(loss, classes)
    sizes = {letter: str(size) for letter, size in (("V", classes), ("D", features)) if size is not None}
    return Schema(tuple(_sized(slot, sizes) for slot in schema.slots), schema.paired) if sizes else schema


def _sized(slot: Slot, sizes: dict[str, str]) -> Slot:
    if "." in slot.kind:
        return slot  # its sizes are those of the vocabulary of the whole case
    high = slot.high
    if slot.role == "labels" and high is None and "V" in sizes:
        high = float(sizes["V"])
    # The two axes of embeddings are all they have; elsewhere D is any number of entries.
    own = sizes if slot.role == "embeddings" else {letter: size for letter, size in sizes.items() if letter != "D"}
    return replace(slot, shape=tuple(own.get(letter, letter) for letter in slot.shape), high=high)


def _attribute(loss: Any, names: tuple[str, ...]) -> int | None:
    given = loss.keywords if isinstance(loss, functools.partial) else {}
    found = (given.get(name, getattr(loss, name, None)) for name in names)
    return next((x for x in found if isinstance(x, int) and not isinstance(x, bool) and x > 1), None)


def _beside(loss: Any, classes: int | None) -> int | None:
    """Return the other axis of the first matrix the loss owns, one of whose axes runs over classes."""
    if not isinstance(loss, nn.Module) or classes is None:
        return None
    shapes = [tuple(parameter.shape) for parameter in loss.parameters() if parameter.dim() == 2]
    fits: tuple[Callable[[int], bool], ...] = (lambda size: size == classes, lambda size: size % classes == 0)
    for fit, axis in itertools.product(fits, (0, 1)):
        other = next((shape[1 - axis] for shape in shapes if fit(shape[axis])), None)
        if other is not None:
            return other
    return None
