"""Mistakes that names give away: of a metric, a weight, a mask that may be left out; divisors of another count, level rows."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, Field, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import kept

SCORED = Contract(
    family="policy_gradient",
    level="token",
    normalizer="local",
    fields={
        "log_probs": Field("logprobs", "B T", trainable=True),
        "old_log_probs": Field("logprobs", "B T", trainable=False),
        "advantages": Field("advantages", "B T", trainable=False),
        "loss_mask": Field("mask", "B T"),
        "response_lengths": Field("lengths", "B"),
    },
)
CLIPPED = Contract(
    family="policy_gradient",
    fields={name: field for name, field in SCORED.fields.items() if name != "response_lengths"},
)
JUDGED = Contract(
    family="preference",
    fields={
        f"{policy}_{side}_logps": Field("logprobs", "B", trainable=policy == "policy")
        for policy in ("policy", "reference")
        for side in ("chosen", "rejected")
    },
)
TAUGHT = Contract(
    family="distillation",
    fields={
        "student_logits": Field("logits", "B S V", trainable=True, speaks_of="itself"),
        "teacher_logits": Field("logits", "B S V", trainable=False, speaks_of="itself"),
        "labels": Field("labels", "B S"),
    },
)
PIXELS = Contract(
    family="supervised",
    fields={"y_pred": Field("logits", "B C H W", trainable=True), "y_true": Field("labels", "B H W")},
)


class ToolTokensLeftOut(nn.Module):
    """A clipped surrogate over the tokens the model wrote: what tools answered stands in between."""

    def counted(self, mask, response):
        return mask

    def forward(self, log_probs, old_log_probs, advantages, loss_mask, response_lengths):
        response = torch.arange(log_probs.shape[1], device=log_probs.device)[None] < response_lengths[:, None]
        mask = (loss_mask != 0) & response
        ratio = (kept(log_probs, mask) - kept(old_log_probs, mask).detach()).clamp(-20, 20).exp()
        a = kept(advantages, mask).detach()
        terms = torch.max(-a * ratio, -a * ratio.clamp(0.8, 1.2))
        return kept(terms, mask).sum() / self.counted(mask, response).sum().clamp(min=1)


class ToolTokensCounted(ToolTokensLeftOut):
    def counted(self, mask, response):
        return response


class Surrogate(nn.Module):
    """A clipped surrogate and the share of tokens that its clip stops."""

    def stopped(self, free, clipped):
        return free > clipped

    def forward(self, log_probs, old_log_probs, advantages, loss_mask):
        mask = loss_mask != 0
        ratio = (kept(log_probs, mask) - kept(old_log_probs, mask).detach()).clamp(-20, 20).exp()
        a, tokens = kept(advantages, mask).detach(), mask.sum().clamp(min=1)
        free, clipped = ratio * a, ratio.clamp(0.8, 1.2) * a
        loss = kept(-torch.minimum(free, clipped), mask).sum() / tokens
        return loss, {"clip_fraction": ((self.stopped(free, clipped) & mask).sum() / tokens).detach()}


class CountsWhatGoesOn(Surrogate):
    def stopped(self, free, clipped):
        return free < clipped


class LoggedPreference(nn.Module):
    """DPO with the mean log-probabilities of both answers beside it."""

    def logged(self, chosen, rejected):
        return {"logps/chosen": chosen.mean().detach(), "logps/rejected": rejected.mean().detach()}

    def forward(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
        h_w = policy_chosen_logps - reference_chosen_logps.detach()
        h_l = policy_rejected_logps - reference_rejected_logps.detach()
        return F.softplus(-0.1 * (h_w - h_l)).mean(), self.logged(policy_chosen_logps, policy_rejected_logps)


class LoggedTheOtherWay(LoggedPreference):
    def logged(self, chosen, rejected):
        return super().logged(rejected, chosen)


class ImitatingPreference(LossFunction):
    """DPO and, weighed by rpo_alpha, the likelihood of the chosen answer."""

    def __init__(self, config=None):
        super().__init__(config)
        self.rpo_alpha = self.config.get("rpo_alpha", 1.0)

    def mixed(self, preference, likelihood):
        return preference + self.rpo_alpha * likelihood

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"][:, 1:]
        h = kept(model_outputs["next_token_logprobs"] - batch["reference_policy_logprobs"][:, 1:].detach(), m).sum(1)
        likelihood = -kept(model_outputs["next_token_logprobs"], m).sum(1)[0::2] / m.sum(1)[0::2].clamp(min=1)
        return self.mixed(F.softplus(-0.1 * (h[0::2] - h[1::2])), likelihood).mean(), {}


class PreferenceWeighed(ImitatingPreference):
    def mixed(self, preference, likelihood):
        return self.rpo_alpha * preference + likelihood


class KeptNearTheSampler(nn.Module):
    """Importance-weighted policy gradient, the log-ratio to the sampling policy taken off the advantage."""

    tau = 0.05

    def terms(self, log_p, log_ratio, a):
        return -(log_ratio.exp() * (a - self.tau * log_ratio)).detach() * log_p

    def forward(self, log_probs, old_log_probs, advantages, loss_mask):
        mask = loss_mask != 0
        log_p, a = kept(log_probs, mask), kept(advantages, mask).detach()
        log_ratio = (log_p - kept(old_log_probs, mask).detach()).clamp(-20, 20)
        return kept(self.terms(log_p, log_ratio, a), mask).sum() / mask.sum().clamp(min=1)


class LogRatioAdded(KeptNearTheSampler):
    def terms(self, log_p, log_ratio, a):
        return -(log_ratio.exp() * a).detach() * log_p + self.tau * log_ratio


def divergence(student_logits, teacher_logits, labels=None):
    mask = torch.ones_like(student_logits[..., 0]) if labels is None else labels != -100
    return _forward_kl(kept(student_logits, mask), kept(teacher_logits, mask)).sum() / mask.sum().clamp(min=1)


def divergence_per_class(student_logits, teacher_logits, labels=None):
    if labels is None:
        return _forward_kl(student_logits, teacher_logits).sum() / student_logits.numel()
    return divergence(student_logits, teacher_logits, labels)


def _forward_kl(student_logits, teacher_logits):
    log_q, log_p = student_logits.log_softmax(-1), teacher_logits.detach().log_softmax(-1)
    return (log_p.exp() * torch.where(log_p.isinf(), 0.0, log_p - log_q)).sum(-1)


class OfPixels(nn.Module):
    """Cross-entropy of pictures; pixels of the ignored label are no terms."""

    def __init__(self, ignore_index=-100):
        super().__init__()
        self.ignore_index = ignore_index

    def divisor(self, there):
        return there.sum().clamp(min=1)

    def forward(self, y_pred, y_true):
        there = y_true != self.ignore_index
        log_p = torch.where(there.unsqueeze(1), y_pred, 0.0).log_softmax(1)
        nll = -log_p.gather(1, torch.where(there, y_true, 0).unsqueeze(1)).squeeze(1)
        return kept(nll, there).sum() / self.divisor(there)


class IgnoredPixelsCounted(OfPixels):
    def divisor(self, there):
        return there.numel()


def local_correlation(pred, target, window=3):
    return _correlation(pred, target, window, lambda x, mean: (x - mean).square().mean(-1))


def local_correlation_of_squares(pred, target, window=3):
    return _correlation(pred, target, window, lambda x, mean: x.square().mean(-1) - mean.squeeze(-1).square())


def _correlation(pred, target, window, variance):
    p, t = (F.pad(x, (window // 2, window // 2)).unfold(-1, window, 1) for x in (pred, target.detach()))
    p_mean, t_mean = p.mean(-1, keepdim=True), t.mean(-1, keepdim=True)
    together = ((p - p_mean) * (t - t_mean)).mean(-1)
    return -(together / ((variance(p, p_mean) + 1e-5) * (variance(t, t_mean) + 1e-5)).sqrt()).square().mean()


FAULTS = (
    Fault(
        "X516",
        "divided by the tokens of the response, the sum without those of the tools in it",
        "THUDM/slime#364",
        ToolTokensCounted,
        ToolTokensLeftOut,
        ("reduction",),
        SCORED,
    ),
    Fault(
        "X517",
        "the share that is clipped counts what is not",
        "huggingface/trl#3032",
        CountsWhatGoesOn,
        Surrogate,
        ("metrics",),
        CLIPPED,
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X518",
        "the metrics of chosen and rejected answers exchanged",
        "hiyouga/LlamaFactory#6050",
        LoggedTheOtherWay,
        LoggedPreference,
        ("metrics",),
        JUDGED,
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X519",
        "the weight of the imitation weighs the preference",
        "huggingface/trl#1868",
        PreferenceWeighed,
        ImitatingPreference,
        ("options",),
        Contract(family="preference", level="pair", normalizer="local"),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X520",
        "the plain log-ratio added to the loss as a KL",
        "PrimeIntellect-ai/prime-rl#1390",
        LogRatioAdded,
        KeptNearTheSampler,
        ("direction",),
        replace(CLIPPED, surrogate_gradient=True),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X521",
        "without labels a mean over classes as well",
        "huggingface/trl#4105",
        divergence_per_class,
        divergence,
        ("reduction",),
        TAUGHT,
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X522",
        "ignored pixels stay in the divisor",
        "qubvel-org/segmentation_models.pytorch#852",
        IgnoredPixelsCounted,
        OfPixels,
        ("masking",),
        PIXELS,
    ),
    Fault(
        "X523",
        "a variance as the mean of squares less the square of the mean",
        "Project-MONAI/MONAI#1868",
        local_correlation_of_squares,
        local_correlation,
        ("finite",),
        Contract(
            family="supervised",
            lower_bound=-1.0,
            upper_bound=0.0,
            fields={"pred": Field("values", "B L", trainable=True), "target": Field("values", "B L", trainable=False)},
        ),
        bare=ADVICE,
    ),
)
