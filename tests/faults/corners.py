"""Corners of what is legal: batches without a positive, embeddings of no length, one large input; rows promised to couple."""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss_reference import Contract, Field, LossFunction
from tests.faults.fault import ADVICE, UNSEEN, Fault
from tests.faults.parts import kept, row_mean, row_weights, token_mean, token_weights

__all__ = ["FAULTS"]


NARROW: Final = 0.25
"""Width of every part of the mixtures."""


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.half, torch.bfloat16) else x


def _heat(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    x, t = _wide(scores), _wide(target.detach())
    return t * F.softplus(-x) + (1 - t) ** 4 * torch.sigmoid(x) ** 2 * F.softplus(x), t


def heat_per_positive(scores: Tensor, target: Tensor) -> Tensor:
    terms, t = _heat(scores, target)
    return terms.sum() / t.sum()


def heat_per_positive_or_one(scores: Tensor, target: Tensor) -> Tensor:
    terms, t = _heat(scores, target)
    return terms.sum() / t.sum().clamp(min=1)


class _CosineToCentre(LossFunction):
    """1 - cos of each row to the first axis."""

    def lengths(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def compute_loss(self, batch, model_outputs):  # type: ignore[no-untyped-def]
        x = model_outputs["embeddings"]
        w = row_weights(batch, x)
        x = _wide(torch.where(w[:, None] != 0, x, 0.0))
        return row_mean(1 - (x / self.lengths(x))[:, 0], w.to(x), batch)


class RootThenEpsilon(_CosineToCentre):
    def lengths(self, x: Tensor) -> Tensor:
        return x.pow(2).sum(-1, keepdim=True).sqrt() + 1e-6


class EpsilonThenRoot(_CosineToCentre):
    def lengths(self, x: Tensor) -> Tensor:
        return (x.pow(2).sum(-1, keepdim=True) + 1e-9).sqrt()


def _log_normal(pred: Tensor, target: Tensor) -> Tensor:
    z = (_wide(target.detach()) - _wide(pred)) / NARROW
    return -0.5 * z**2 - math.log(NARROW) - 0.5 * math.log(2 * math.pi)


def mixture_of_raw_weights(pred: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    return -torch.logsumexp(_wide(logits) + _log_normal(pred, target), dim=-1).mean()


def mixture(pred: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    return -torch.logsumexp(_wide(logits).log_softmax(-1) + _log_normal(pred, target), dim=-1).mean()


def _information(logits: Tensor, axis: int) -> Tensor:
    """Entropy of each prediction less that of the mean prediction."""
    lp = _wide(logits).log_softmax(-1).clamp(min=-1e30)
    marginal = lp.exp().mean(axis)
    return -(lp.exp() * lp).sum(-1).mean() + (marginal * marginal.clamp(min=1e-30).log()).sum()


def marginal_over_classes(logits: Tensor) -> Tensor:
    return _information(logits, 1)


def marginal_over_rows(logits: Tensor) -> Tensor:
    return _information(logits, 0)


def _overlap(scores: Tensor, target: Tensor, twice: float) -> Tensor:
    p, t = torch.sigmoid(_wide(scores)), _wide(target.detach())
    return (1 - (twice * (p * t).sum(1) + 1) / (p.square().sum(1) + t.square().sum(1) + 1)).mean()


def half_of_dice(scores: Tensor, target: Tensor) -> Tensor:
    return _overlap(scores, target, 1.0)


def dice(scores: Tensor, target: Tensor) -> Tensor:
    return _overlap(scores, target, 2.0)


class CrossEntropyOfScores(LossFunction):
    def scores(self, logits: Tensor) -> Tensor:
        return logits

    def compute_loss(self, batch, model_outputs):  # type: ignore[no-untyped-def]
        m = token_weights(batch)
        lp = self.scores(kept(model_outputs["logits"][:, :-1], m)).log_softmax(-1)
        nll = -lp.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        return token_mean(nll, m, batch)


class CrossEntropyOfProbabilities(CrossEntropyOfScores):
    def scores(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)


class Heteroscedastic(nn.Module):
    """A squared error over a learned variance, and the logarithm of the variance."""

    price = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        error = (_wide(input) - _wide(target.detach())).square().mean()
        s = self.log_variance.to(error)
        return 0.5 * (torch.exp(-s) * error + self.price * s)


class RewardedVariance(Heteroscedastic):
    price = -1.0


_SCORED: Final = {
    "scores": Field("logits", "B D", trainable=True),
    "target": Field("probabilities", "B D", trainable=False),
}
_MIXTURE: Final = {
    "pred": Field("values", "B D", trainable=True),
    "logits": Field("logits", "B D", trainable=True),
    "target": Field("values", "B D", trainable=False),
}

FAULTS: Final = (
    Fault(
        "X430",
        "the sum over a heat map is divided by the positives of a batch that has none",
        "",
        heat_per_positive,
        heat_per_positive_or_one,
        ("finite",),
        Contract(coupled=True, lower_bound=0.0, fields=_SCORED),
    ),
    Fault(
        "X431",
        "epsilon after the square root, whose slope at a vector of no length is infinite",
        "",
        RootThenEpsilon,
        EpsilonThenRoot,
        ("finite",),
        Contract(family="contrastive", level="sample", coupled=False, lower_bound=0.0),
    ),
    Fault(
        "X432",
        "mixture weights that are not normalised: raising all of them lowers L without end",
        "",
        mixture_of_raw_weights,
        mixture,
        ("positivity",),
        Contract(lower_bound=math.log(NARROW * math.sqrt(2 * math.pi)), fields=_MIXTURE),
        bare=UNSEEN,
    ),
    Fault(
        "X433",
        "the marginal prediction is a mean over classes, a constant, not over rows",
        "",
        marginal_over_classes,
        marginal_over_rows,
        ("symmetry",),
        Contract(coupled=True, fields={"logits": Field("logits", "B V", trainable=True)}),
        bare=UNSEEN,
        advice=True,
    ),
    Fault(
        "X434",
        "the factor 2 of the overlap is missing: a perfect mask costs about a half",
        "hubutui/DiceLoss-PyTorch#1",
        half_of_dice,
        dice,
        ("positivity",),
        Contract(lower_bound=0.0, fields=_SCORED),
        bare=UNSEEN,
        advice=True,
    ),
    Fault(
        "X435",
        "a softmax before a cross-entropy that takes one itself",
        "",
        CrossEntropyOfProbabilities,
        CrossEntropyOfScores,
        ("positivity",),
        Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X436",
        "the learned log-variance is taken off instead of added: it grows for ever",
        "",
        RewardedVariance,
        Heteroscedastic,
        ("stability",),
        Contract(lower_bound=-math.inf),
        bare=ADVICE,
        advice=True,
    ),
)
