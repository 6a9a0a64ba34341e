"""Composites: values made of other losses' values, and distillation from several teachers."""

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from .counts import Fields
from .distillation import forward_kl, mixed_kl, reverse_kl
from .numerics import log_softmax
from .supervised import nll


def dynamic_loss_scaling(ce: float, kd: float) -> float:
    """|ce| / |kd| kd + ce, with the factor 1 where kd is 0; twice ce where both are positive."""
    if kd == 0.0:
        return float(ce)
    return math.copysign(abs(float(ce)), float(kd)) + float(ce)


def uncertainty_weighting(losses: Sequence[float], s: Sequence[float]) -> float:
    """sum_i 1/2 e^{-s_i} L_i + 1/2 s_i."""
    return sum(
        0.5 * math.exp(-float(spread)) * float(loss) + 0.5 * float(spread)
        for loss, spread in zip(losses, s, strict=True)
    )


def dwa_weights(previous: Sequence[float], before: Sequence[float], temperature: float = 2.0) -> list[float]:
    """w_i = n softmax_i((L_i at t-1) / (L_i at t-2) / temperature); previous is t-1, before is t-2."""
    rates = [float(last) / float(first) / temperature for last, first in zip(previous, before, strict=True)]
    return [len(rates) * math.exp(x) for x in log_softmax(rates)]


def flooding(loss: float, level: float = 0.0) -> float:
    """|L - level| + level."""
    return abs(float(loss) - level) + level


def distilled(batch: Fields, outputs: Fields, teacher_logits: NDArray[Any], kl_type: str) -> float:
    """Forward_kl, reverse_kl or mixed_kl towards this one teacher."""
    oracles = {"forward": forward_kl, "reverse": reverse_kl, "mixed": mixed_kl}
    if kl_type not in oracles:
        raise ValueError(f"unknown kl_type {kl_type!r}")
    return oracles[kl_type]({**batch, "teacher_logits": teacher_logits}, outputs)


def averaged_teacher(logits: NDArray[Any], weights: Sequence[float]) -> NDArray[Any]:
    """sum_i w_i z_i / sum_i w_i over the teachers of weight not 0; a sum of 0 is an error."""
    if sum(weights) == 0.0:
        raise ValueError("the teachers' weights sum to 0")
    average = None
    for i, weight in enumerate(weights):
        if weight != 0.0:
            part = weight / sum(weights) * logits[:, :, i].astype(float)
            average = part if average is None else average + part
    assert average is not None
    return average


def multi_teacher(
    batch: Fields,
    outputs: Fields,
    *,
    aggregation: str = "sum",
    weights: Sequence[float] | None = None,
    kl_type: str = "forward",
    vocabulary_sizes: Sequence[int] | None = None,
) -> float:
    """distillation from teachers_logits [B, S, M, V]; weights all 1 unless given.

    sum              sum_i w_i KL_i, w_i log(V_i) / log(min V) in the place of w_i with vocabulary_sizes V
    averaged_logits  the KL to the one teacher of averaged_teacher
    select_teacher   the KL to the teacher of the least nll on the batch's own tokens, the first of equals
    """
    logits = batch["teachers_logits"]
    count = int(logits.shape[2])
    shares = [1.0] * count if weights is None else [float(w) for w in weights]
    if len(shares) != count:
        raise ValueError(f"{len(shares)} weights for {count} teachers")
    if aggregation == "sum":
        if vocabulary_sizes is not None:
            smallest = math.log(min(vocabulary_sizes))
            shares = [w * math.log(size) / smallest for w, size in zip(shares, vocabulary_sizes, strict=True)]
        parts = [w * distilled(batch, outputs, logits[:, :, i], kl_type) for i, w in enumerate(shares) if w != 0.0]
        return sum(parts, 0.0)
    if aggregation == "averaged_logits":
        return distilled(batch, outputs, averaged_teacher(logits, shares), kl_type)
    if aggregation == "select_teacher":
        errors = [nll(batch, {"logits": logits[:, :, i]}) for i in range(count)]
        return distilled(batch, outputs, logits[:, :, errors.index(min(errors))], kl_type)
    raise ValueError(f"unknown aggregation {aggregation!r}")
