"""What the losses of ``torch.nn`` promise, so that they and their subclasses are checked without configuration."""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any, Final

import torch.nn.functional as F
from torch import nn

from loss_conformance.cases.slot import Slot
from loss_conformance.subject.torch_slots import SLOTS
from loss_reference.contract import Contract, Option

__all__ = ["contract_of_torch_loss", "slots_of_torch_loss"]

# The facts that differ from "a mean over rows, at least 0".
_FACTS: Final[dict[str, dict[str, Any]]] = {
    "CrossEntropyLoss": {"family": "supervised"},
    "NLLLoss": {"family": "supervised"},
    "LinearCrossEntropyLoss": {"family": "supervised"},
    # Counts and densities: log p of a continuous or rescaled variable may be positive.
    "PoissonNLLLoss": {"lower_bound": -math.inf},
    "GaussianNLLLoss": {"lower_bound": -math.inf},
    # The backward of CTC takes its input for the output of log_softmax, and gives the gradient along those alone.
    "CTCLoss": {"surrogate_gradient": True},
    "CosineEmbeddingLoss": {"upper_bound": 2.0},
}

# Settings worth trying, and settings that change which inputs are legal (those are left as they are).
_OPTIONS: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "CrossEntropyLoss": {"label_smoothing": (0.0, 0.1), "ignore_index": ()},
    "NLLLoss": {"ignore_index": ()},
    "LinearCrossEntropyLoss": {
        "label_smoothing": (0.0, 0.1),
        "in_features": (),
        "num_classes": (),
        "bias": (),
    },
    "SmoothL1Loss": {"beta": (0.5, 1.0)},
    "HuberLoss": {"delta": (0.5, 1.0)},
    "KLDivLoss": {"log_target": ()},
    "PoissonNLLLoss": {"log_input": (), "full": (), "eps": ()},
    "GaussianNLLLoss": {"full": (), "eps": ()},
    "CTCLoss": {"blank": (), "zero_infinity": ()},
    "MarginRankingLoss": {"margin": (0.0, 0.5)},
    "HingeEmbeddingLoss": {"margin": (0.5, 1.0)},
    "CosineEmbeddingLoss": {"margin": (0.0, 0.5)},
    "MultiMarginLoss": {"margin": (0.5, 1.0), "p": (1, 2)},
    "TripletMarginLoss": {"margin": (0.5, 1.0), "p": (), "eps": (), "swap": ()},
    "TripletMarginWithDistanceLoss": {"margin": (0.5, 1.0), "swap": ()},
    "AdaptiveLogSoftmaxWithLoss": {"in_features": (), "n_classes": (), "div_value": (), "head_bias": ()},
}

_FUNCTIONS: Final[dict[Any, type[nn.Module]]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.kl_div: nn.KLDivLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.gaussian_nll_loss: nn.GaussianNLLLoss,
    F.ctc_loss: nn.CTCLoss,
    F.margin_ranking_loss: nn.MarginRankingLoss,
    F.hinge_embedding_loss: nn.HingeEmbeddingLoss,
    F.cosine_embedding_loss: nn.CosineEmbeddingLoss,
    F.soft_margin_loss: nn.SoftMarginLoss,
    F.multi_margin_loss: nn.MultiMarginLoss,
    F.multilabel_margin_loss: nn.MultiLabelMarginLoss,
    F.multilabel_soft_margin_loss: nn.MultiLabelSoftMarginLoss,
    F.triplet_margin_loss: nn.TripletMarginLoss,
    F.triplet_margin_with_distance_loss: nn.TripletMarginWithDistanceLoss,
}


def slots_of_torch_loss(loss: Any) -> tuple[Slot, ...] | None:
    """Return the inputs of a loss of ``torch.nn``, of a subclass, or of its function in ``torch.nn.functional``."""
    known = _known(loss)
    return None if known is None else SLOTS[known[0]](known[1])


def contract_of_torch_loss(loss: Any) -> Contract | None:
    """Return what such a loss promises, read off the settings of this very object; ``None`` for any other loss."""
    known = _known(loss)
    if known is None:
        return None
    cls, module = known
    name = cls.__name__
    facts = {"family": None, "level": "sample", "lower_bound": 0.0, **_FACTS.get(name, {}), **_reduction(name, module)}
    return Contract(**facts, options=_options(name))


def _known(loss: Any) -> tuple[type[nn.Module], Any] | None:
    """Return the ``torch.nn`` class a loss is of, and an object that holds its settings."""
    settings: dict[str, Any] = {}
    if isinstance(loss, functools.partial) and not loss.args:
        settings, loss = loss.keywords, loss.func
    if inspect.isfunction(loss) and loss in _FUNCTIONS:
        cls = _FUNCTIONS[loss]
        taken = inspect.signature(cls).parameters
        return cls, cls(**{name: value for name, value in settings.items() if name in taken})
    cls_found = next((cls for cls in type(loss).__mro__ if cls in SLOTS), None)
    return None if cls_found is None else (cls_found, loss)


def _reduction(name: str, loss: Any) -> dict[str, Any]:
    """Return the facts that follow from how the terms are reduced."""
    reduction = getattr(loss, "reduction", "mean")
    ignores = name in ("CrossEntropyLoss", "NLLLoss", "LinearCrossEntropyLoss")
    # The upper bound is that of one term, and terms are summed. Those of a divergence are bounded by their sum alone.
    if reduction == "none":
        bound = {"lower_bound": -math.inf} if name == "KLDivLoss" else {}
        return {"output": "terms", "normalizer": "sum", "upper_bound": None, **bound}
    if reduction == "sum":
        return {"normalizer": "sum", "upper_bound": None, **({"empty": "zero"} if ignores else {})}
    if not ignores:
        return {"normalizer": "local"}
    # The weighted mean over the targets that are not ignored is 0/0 when there is none, as torch documents. With class
    # weights its denominator also depends on the classes of the other rows.
    return {"normalizer": "local", "empty": "nan", "coupled": getattr(loss, "weight", None) is not None}


def _options(name: str) -> dict[str, Option]:
    return {key: Option(values=values, inert=not values) for key, values in _OPTIONS.get(name, {}).items()}
