"""The inputs of every loss in ``torch.nn``: what each argument means, its size and its legal values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import nn

from loss_conformance.cases.label_values import MULTILABEL
from loss_conformance.cases.slot import ARGUMENT, Slot

__all__ = ["CTC_FRAMES", "CTC_TARGET", "SLOTS", "argument"]

_WHOLE: Final = ("token_ids", "lengths", "labels", "pairs")


def argument(name: str, role: str, shape: str, *, trainable: bool = False, **facts: Any) -> Slot:
    """Return the slot of an argument of a call by parameter name; its kind is the role unless ``facts`` say another."""
    given: dict[str, Any] = {"kind": role, "integer": role in _WHOLE, **facts}
    return Slot(place=ARGUMENT, name=name, role=role, shape=tuple(shape.split()), trainable=trainable, **given)


def _prediction(role: str, shape: str, name: str = "input", **facts: Any) -> Slot:
    return argument(name, role, shape, trainable=True, **facts)


def _classes(loss: Any) -> str:
    weight = getattr(loss, "weight", None)
    return "V" if weight is None or weight.dim() == 0 else str(len(weight))


def _features(loss: Any) -> str:
    """Return the letter of the last axis; elementwise weights fix its size."""
    for name in ("weight", "pos_weight"):
        weight = getattr(loss, name, None)
        if weight is not None and weight.dim() > 0 and weight.shape[-1] > 1:
            return str(weight.shape[-1])
    return "D"


def _labels(loss: Any, ignorable: bool) -> Slot:
    classes = _classes(loss)
    high = float(classes) if classes.isdigit() else None
    ignore = getattr(loss, "ignore_index", None) if ignorable else None
    return argument("target", "labels", "B", high=high, ignore=-100 if ignorable and ignore is None else ignore)


def _cross_entropy(loss: Any) -> tuple[Slot, ...]:
    return _prediction("logits", f"B {_classes(loss)}"), _labels(loss, ignorable=True)


def _nll(loss: Any) -> tuple[Slot, ...]:
    return _prediction("logprobs", f"B {_classes(loss)}"), _labels(loss, ignorable=True)


def _multi_margin(loss: Any) -> tuple[Slot, ...]:
    return _prediction("logits", f"B {_classes(loss)}"), _labels(loss, ignorable=False)


def _linear_cross_entropy(loss: Any) -> tuple[Slot, ...]:
    sizes = " ".join(str(size) for size in loss.out_features)
    ignore = -100 if loss.ignore_index is None else loss.ignore_index
    target = argument("target", "labels", f"B {sizes}", high=float(loss.num_classes), ignore=ignore)
    return _prediction("embeddings", f"B {loss.linear.in_features}"), target


def _adaptive_softmax(loss: Any) -> tuple[Slot, ...]:
    target = argument("target", "labels", "B", high=float(loss.n_classes))
    return _prediction("embeddings", f"B {loss.in_features}"), target


def _bce_with_logits(loss: Any) -> tuple[Slot, ...]:
    shape = f"B {_features(loss)}"
    return _prediction("logits", shape), argument("target", "values", shape, low=0.0, high=1.0)


def _bce(loss: Any) -> tuple[Slot, ...]:
    shape = f"B {_features(loss)}"
    return _prediction("probabilities", shape), argument("target", "values", shape, low=0.0, high=1.0)


def _regression(loss: Any) -> tuple[Slot, ...]:
    return _prediction("values", "B D"), argument("target", "values", "B D")


def _kl(loss: Any) -> tuple[Slot, ...]:
    target = "logprobs" if loss.log_target else "probabilities"
    return _prediction("logprobs", "B V"), argument("target", target, "B V")


def _poisson(loss: Any) -> tuple[Slot, ...]:
    # The rate is exp(input), or input itself; within the range that counts have.
    limits = (-10.0, 10.0) if loss.log_input else (0.125, 32.0)
    rate = _prediction("values", "B D", low=limits[0], high=limits[1])
    return rate, argument("target", "values", "B D", low=0.0)


def _gaussian(loss: Any) -> tuple[Slot, ...]:
    return (*_regression(loss), argument("var", "values", "B D", trainable=True, low=0.125))


# Every target, and a path through any repeats in it, fits into the shortest input.
CTC_TARGET: Final = 3
CTC_FRAMES: Final = 8


def _ctc(loss: Any) -> tuple[Slot, ...]:
    # Labels run over the classes that are not blank.
    classes = "V" if loss.blank == 0 else str(loss.blank + 1)
    low, high = (1.0, None) if loss.blank == 0 else (0.0, float(loss.blank))
    shortest = float(2 * CTC_TARGET)
    return (
        _prediction("logprobs", f"{CTC_FRAMES} B {classes}", name="log_probs"),
        argument("targets", "labels", f"B {CTC_TARGET}", low=low, high=high),
        argument("input_lengths", "lengths", "B", low=shortest, high=CTC_FRAMES + 1.0),
        argument("target_lengths", "lengths", "B", low=1.0, high=CTC_TARGET + 1.0),
    )


def _ranking(loss: Any) -> tuple[Slot, ...]:
    return _prediction("values", "B", "input1"), _prediction("values", "B", "input2"), _signs("B")


def _signs(shape: str) -> Slot:
    return argument("target", "values", shape, signs=True)


def _hinge(loss: Any) -> tuple[Slot, ...]:
    return _prediction("values", "B D", low=0.0), _signs("B D")


def _cosine(loss: Any) -> tuple[Slot, ...]:
    return _prediction("embeddings", "B D", "input1"), _prediction("embeddings", "B D", "input2"), _signs("B")


def _soft_margin(loss: Any) -> tuple[Slot, ...]:
    return _prediction("logits", "B D"), _signs("B D")


def _multilabel_margin(loss: Any) -> tuple[Slot, ...]:
    return _prediction("logits", "B V"), argument("target", "labels", "B V", kind=MULTILABEL)


def _multilabel_soft_margin(loss: Any) -> tuple[Slot, ...]:
    shape = f"B {_classes(loss)}"
    return _prediction("logits", shape), argument("target", "values", shape, low=0.0, high=1.0)


def _triplet(loss: Any) -> tuple[Slot, ...]:
    return tuple(_prediction("embeddings", "B D", name) for name in ("anchor", "positive", "negative"))


SLOTS: Final[dict[type[nn.Module], Callable[[Any], tuple[Slot, ...]]]] = {
    nn.CrossEntropyLoss: _cross_entropy,
    nn.NLLLoss: _nll,
    nn.BCEWithLogitsLoss: _bce_with_logits,
    nn.BCELoss: _bce,
    nn.MSELoss: _regression,
    nn.L1Loss: _regression,
    nn.SmoothL1Loss: _regression,
    nn.HuberLoss: _regression,
    nn.KLDivLoss: _kl,
    nn.PoissonNLLLoss: _poisson,
    nn.GaussianNLLLoss: _gaussian,
    nn.CTCLoss: _ctc,
    nn.MarginRankingLoss: _ranking,
    nn.HingeEmbeddingLoss: _hinge,
    nn.CosineEmbeddingLoss: _cosine,
    nn.SoftMarginLoss: _soft_margin,
    nn.MultiMarginLoss: _multi_margin,
    nn.MultiLabelMarginLoss: _multilabel_margin,
    nn.MultiLabelSoftMarginLoss: _multilabel_soft_margin,
    nn.TripletMarginLoss: _triplet,
    nn.TripletMarginWithDistanceLoss: _triplet,
    nn.AdaptiveLogSoftmaxWithLoss: _adaptive_softmax,
}
"""Loss class to the function that gives its slots, in the order of the call."""

# Newer than the oldest torch supported.
if hasattr(nn, "LinearCrossEntropyLoss"):
    SLOTS[nn.LinearCrossEntropyLoss] = _linear_cross_entropy
