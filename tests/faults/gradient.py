"""Gradients: the value is right, and what flows back is not."""

from __future__ import annotations

import torch

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.masking import Nll
from tests.faults.parts import (
    constant,
    kept,
    policy,
    row_mean,
    row_weights,
    token_mean,
    token_weights,
)

SFT = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)
PG = Contract(family="policy_gradient", normalizer="global")
KD = Contract(family="distillation", level="token", normalizer="global", lower_bound=0.0)
VALUE = Contract(family="value", level="token", normalizer="global", lower_bound=0.0)


class BackwardScaled(Nll):
    """Two accumulation steps: the returned loss is halved, the one that is differentiated is not."""

    def backward(self, loss):
        (loss * 2).backward()


class BackwardReplaces(Nll):
    """Starts from scratch at every call: earlier steps are lost."""

    def compute_loss(self, batch, model_outputs):
        self.leaf = model_outputs["next_token_logprobs"]
        return super().compute_loss(batch, model_outputs)

    def backward(self, loss):
        (self.leaf.grad,) = torch.autograd.grad(loss, self.leaf)


class Chunked(LossFunction):
    """Mean squared error of values in chunks of one row."""

    def gather(self, parts):
        return torch.stack(parts).sum()

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        error = kept(model_outputs["values"], m) - kept(batch["returns"].detach(), m)
        parts = [(e.square() * w).sum() for e, w in zip(error, m, strict=True)]
        n = batch.get("global_valid_toks", m.sum())
        return self.gather(parts) / n.clamp(min=1)


class LastChunkOnly(Chunked):
    def gather(self, parts):
        return torch.stack([*[part.detach() for part in parts[:-1]], parts[-1]]).sum()


class KlByItem(LossFunction):
    """Policy gradient plus a KL penalty that went through .item()."""

    def penalty(self, kl):
        return kl.item()

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        d = constant(batch, "reference_policy_logprobs", m) - lp
        kl = token_mean(d.clamp(max=20).exp() - 1 - d, m, batch)
        return token_mean(-lp * constant(batch, "advantages", m), m, batch) + 0.1 * self.penalty(kl)


class KlKept(KlByItem):
    def penalty(self, kl):
        return kl


class _MeanWithOwnBackward(torch.autograd.Function):
    """sum(x w) whose backward returns w, whatever arrives from above."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(w)
        return (x * w).sum()

    @staticmethod
    def backward(ctx, grad_output):
        (w,) = ctx.saved_tensors
        return w, None


class _MeanWithUpstream(_MeanWithOwnBackward):
    @staticmethod
    def backward(ctx, grad_output):
        (w,) = ctx.saved_tensors
        return grad_output * w, None


class UpstreamIgnored(LossFunction):
    function = _MeanWithOwnBackward

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        n = batch.get("global_valid_toks", m.sum()).clamp(min=1)
        return self.function.apply(-policy(model_outputs, m), m / n)


class UpstreamUsed(UpstreamIgnored):
    function = _MeanWithUpstream


class GradientNorm(LossFunction):
    """Scales the loss by the gradient it finds on the way, and presumes there is one."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        lp.register_hook(lambda g: g.clamp(-1e3, 1e3))
        return token_mean(-lp, m, batch)


class GuardedHook(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        if lp.requires_grad:
            lp.register_hook(lambda g: g.clamp(-1e3, 1e3))
        return token_mean(-lp, m, batch)


class RootOfNothing(LossFunction):
    """The norm of a row's value errors."""

    def norm(self, squares):
        return squares.sqrt()

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        error = kept(model_outputs["values"], m) - kept(batch["returns"].detach(), m)
        return row_mean(self.norm(error.square().sum(1)), row_weights(batch, error), batch)


class RootGuarded(RootOfNothing):
    def norm(self, squares):
        some = squares > 0
        return torch.where(some, torch.where(some, squares, 1.0).sqrt(), 0.0)


FAULTS = (
    Fault(
        "B041",
        "scaled after it was reported",
        "volcengine/verl@e160d3b2e",
        BackwardScaled,
        Nll,
        ("gradient_flow",),
        SFT,
    ),
    Fault(
        "B047",
        "only the last chunk keeps its gradient",
        "huggingface/sentence-transformers@fddb49e4",
        LastChunkOnly,
        Chunked,
        ("gradient_flow",),
        VALUE,
    ),
    Fault(
        "B113",
        "backward ignores grad_output",
        "pytorch/pytorch#94226",
        UpstreamIgnored,
        UpstreamUsed,
        ("gradient_flow",),
        SFT,
    ),
    Fault(
        "B128",
        "crashes when no gradient is needed",
        "linkedin/Liger-Kernel@4a1677b8",
        GradientNorm,
        GuardedHook,
        ("gradient_flow", "interface"),
        SFT,
    ),
    Fault("X30", "KL penalty through .item()", "", KlByItem, KlKept, ("gradient_flow",), PG, bare=ADVICE),
    Fault("X32", "backward replaces .grad", "", BackwardReplaces, Nll, ("gradient_flow",), SFT),
    Fault(
        "X36",
        "square root at 0",
        "",
        RootOfNothing,
        RootGuarded,
        ("finite",),
        Contract(level="sequence", normalizer="global"),
    ),
)
