"""Mistakes that a point of indifference or of rest gives away: totals of targets, what a spread is, where a code rests."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, Field, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import pair_mean, pair_weights, pairs, sequence_ratio

NUMBERS = {name: Field("values", "B D", trainable=True) for name in ("mean", "log_sigma")}
CRITICS = {name: Field("values", "B", trainable=name != "td_target") for name in ("q1", "q2", "td_target")}
CODE = {name: Field("values", "B D", trainable=True) for name in ("mu", "logvar")}


def _smoothed(logits, target, share_of_the_label, share_of_each):
    log_p = logits.log_softmax(-1)
    label = -log_p.gather(-1, target[:, None]).squeeze(-1)
    return (share_of_the_label * label - share_of_each * torch.where(torch.isinf(log_p), 0.0, log_p).sum(-1)).mean()


def targets_of_one(input, target, label_smoothing=0.1):
    return _smoothed(input, target, 1 - label_smoothing, label_smoothing / input.shape[-1])


def targets_of_more_than_one(input, target, label_smoothing=0.1):
    each = label_smoothing / input.shape[-1]
    return _smoothed(input, target, 1 - each, each)


class NoisyLabels(LossFunction):
    """DPO on labels of which a share eps is exchanged."""

    beta = 0.5

    def __init__(self, config=None):
        super().__init__(config)
        self.eps = self.config.get("label_smoothing", 0.1)

    def compute_loss(self, batch, model_outputs):
        h = sequence_ratio(batch, model_outputs)
        chosen, rejected = pairs(h)
        return pair_mean(self.terms(self.beta * (chosen - rejected)), pair_weights(batch, h), {})


class Robust(NoisyLabels):
    """The mean over exchanged labels made unbiased."""

    beta = 0.1

    def divisor(self):
        return 1 - 2 * self.eps

    def terms(self, z):
        return (self.eps * F.logsigmoid(-z) - (1 - self.eps) * F.logsigmoid(z)) / self.divisor()


class RobustByTheWrongConstant(Robust):
    def divisor(self):
        return 1 - self.eps


def _normal_nll(mean, log_var, target):
    return 0.5 * (log_var + (target.detach() - mean).square() * (-log_var).exp()).mean()


def of_a_deviation(mean, log_sigma, target):
    return _normal_nll(mean, 2 * log_sigma.clamp(-3.0, 3.0), target)


def deviation_as_variance(mean, log_sigma, target):
    return _normal_nll(mean, log_sigma.clamp(-3.0, 3.0), target)


def _divergence(mu, log_var):
    return 0.5 * (mu.square() + log_var.exp() - log_var - 1).sum(-1).mean()


def of_a_log_variance(mu, logvar):
    return _divergence(mu, logvar.clamp(-20.0, 20.0))


def log_variance_as_deviation(mu, logvar):
    return _divergence(mu, 2 * (logvar.abs() + 1e-10).clamp(max=2e4).log())


def errors_squared_apart(q1, q2, td_target):
    return F.mse_loss(q1, td_target.detach()) + F.mse_loss(q2, td_target.detach())


def errors_added_first(q1, q2, td_target):
    wanted = td_target.detach()
    return ((q1 - wanted) + (q2 - wanted)).square().mean()


class _ByHand(torch.autograd.Function):
    """-log p of the label, its gradient formed by hand."""

    @staticmethod
    def forward(ctx, logits, target):
        log_p = logits.log_softmax(-1)
        ctx.save_for_backward(log_p, target)
        return -log_p.gather(-1, target[:, None]).squeeze(-1)

    @staticmethod
    def backward(ctx, upstream):
        log_p, target = ctx.saved_tensors
        return (log_p.exp() - F.one_hot(target, log_p.shape[-1])) * upstream[:, None], None


class _ByTheFirst(_ByHand):
    @staticmethod
    def backward(ctx, upstream):
        return _ByHand.backward(ctx, upstream[:1].expand_as(upstream))


def terms_by_hand(logits, target):
    return _ByHand.apply(logits, target)


def terms_by_the_first(logits, target):
    return _ByTheFirst.apply(logits, target)


FAULTS = (
    Fault(
        "X488",
        "the label keeps 1 - eps / K of its weight instead of 1 - eps",
        "ildoonet/pytorch-randaugment#30",
        targets_of_more_than_one,
        targets_of_one,
        ("options",),
        Contract(family="supervised"),
        bare=ADVICE,
    ),
    Fault(
        "X489",
        "robust DPO divided by 1 - eps instead of 1 - 2 eps",
        "",
        RobustByTheWrongConstant,
        Robust,
        ("options",),
        Contract(family="preference", level="pair", normalizer="local", lower_bound=float("-inf")),
        bare=ADVICE,
    ),
    Fault(
        "X490",
        "the predicted deviation taken for the variance of the likelihood",
        "unit8co/darts#1162",
        deviation_as_variance,
        of_a_deviation,
        ("positivity",),
        Contract(fields={**NUMBERS, "target": Field("values", "B D")}, lower_bound=float("-inf")),
        bare=ADVICE,
    ),
    Fault(
        "X491",
        "the logarithm of the variance taken for the deviation",
        "deepchem/deepchem#4888",
        log_variance_as_deviation,
        of_a_log_variance,
        ("positivity",),
        Contract(fields=CODE, lower_bound=0.0),
        bare=ADVICE,
    ),
    Fault(
        "X493",
        "the errors of two critics added before they are squared",
        "ray-project/ray#10653",
        errors_added_first,
        errors_squared_apart,
        ("positivity",),
        Contract(family="value", fields=CRITICS, lower_bound=0.0),
        bare=ADVICE,
    ),
    Fault(
        "X492",
        "every term's gradient multiplied with the incoming gradient of the first",
        "linkedin/Liger-Kernel#1298",
        terms_by_the_first,
        terms_by_hand,
        ("gradient_flow",),
        Contract(family="supervised", output="terms"),
        bare=ADVICE,
    ),
)
