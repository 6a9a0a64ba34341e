"""Gradients: the value is right, and what flows back is not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, UNSEEN, Fault
from tests.faults.masking import JsdLogs, Nll
from tests.faults.parts import (
    constant,
    kept,
    pair_mean,
    pair_weights,
    pairs,
    policy,
    row_mean,
    row_weights,
    sequence_ratio,
    token_mean,
    token_weights,
)
from tests.faults.reduction import DividedOnce

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


class LiveTeacher(JsdLogs):
    """The teacher is read without detach."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1).clamp(min=-1e4)
        t = kept(self.teacher(batch), m).log_softmax(-1).clamp(min=-1e4)
        return token_mean((t.exp() * (t - s)).sum(-1), m, batch)

    def teacher(self, batch):
        return batch["teacher_logits"][:, :-1]


class DetachedTeacher(LiveTeacher):
    def teacher(self, batch):
        return batch["teacher_logits"][:, :-1].detach()


class StudentIsTeacher(LiveTeacher):
    """KL(teacher, teacher)."""

    def compute_loss(self, batch, model_outputs):
        return super().compute_loss(batch, {"logits": batch["teacher_logits"].detach()})


class UnderNoGrad(DetachedTeacher):
    def compute_loss(self, batch, model_outputs):
        with torch.no_grad():
            return super().compute_loss(batch, model_outputs)


class LiveOldPolicy(LossFunction):
    """PPO whose old policy is read without detach."""

    def old(self, batch, m):
        return kept(batch["prev_logprobs"][:, 1:], m)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        rho = (policy(model_outputs, m) - self.old(batch, m)).clamp(max=20).exp()
        a = constant(batch, "advantages", m)
        return token_mean(torch.maximum(-a * rho, -a * rho.clamp(0.8, 1.2)), m, batch)


class DetachedOldPolicy(LiveOldPolicy):
    def old(self, batch, m):
        return constant(batch, "prev_logprobs", m)


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


class BothDetached(LossFunction):
    """DPO in which the chosen term is taken for a constant as well."""

    def compute_loss(self, batch, model_outputs):
        chosen, rejected = pairs(sequence_ratio(batch, model_outputs))
        w = pair_weights(batch, model_outputs["next_token_logprobs"])
        return pair_mean(F.softplus(rejected.detach() - chosen.detach()) + 0 * chosen, w, batch)


class ClampBeforeHalving(LossFunction):
    """Cosine distance clamp(1 - s, 0, 1) / 2, dead for s < 0."""

    def distance(self, s):
        return (1 - s).clamp(0, 1) / 2

    def compute_loss(self, batch, model_outputs):
        x = F.normalize(model_outputs["embeddings"], dim=1, eps=1e-6)
        i, j = batch["positive_pairs"].T
        return self.distance((x[i] * x[j]).sum(1)).mean()


class ClampAfterHalving(ClampBeforeHalving):
    def distance(self, s):
        return ((1 - s) / 2).clamp(0, 1)


class Cispo(LossFunction):
    """-A sg(min(rho, c)) lp."""

    def term(self, rho, a, lp):
        return -a * rho.clamp(max=1.1).detach() * lp

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        rho = (lp - constant(batch, "prev_logprobs", m)).clamp(max=20).exp()
        return token_mean(self.term(rho, constant(batch, "advantages", m), lp), m, batch)


class CispoClippedObjective(Cispo):
    def term(self, rho, a, lp):
        return -a * rho.clamp(max=1.1)


class LiveAdvantage(LossFunction):
    """Actor-critic whose advantage is not detached: the actor term trains the critic."""

    def advantage(self, values, returns):
        return returns - values

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        values = kept(model_outputs["values"][:, 1:], m)
        returns = constant(batch, "returns", m)
        actor = -policy(model_outputs, m) * self.advantage(values, returns)
        return token_mean(actor + 0.5 * (values - returns).square(), m, batch)


class DetachedAdvantage(LiveAdvantage):
    def advantage(self, values, returns):
        return (returns - values).detach()


class Temperature(LossFunction):
    """DPO with a learned temperature."""

    def __init__(self, config=None):
        super().__init__(config)
        self.log_beta = nn.Parameter(torch.tensor(-2.0))

    def beta(self):
        return self.log_beta.exp()

    def compute_loss(self, batch, model_outputs):
        h = sequence_ratio(batch, model_outputs)
        chosen, rejected = pairs(h)
        terms = F.softplus(-self.beta() * (chosen - rejected))
        return pair_mean(terms, pair_weights(batch, h), batch)


class TemperatureByItem(Temperature):
    def beta(self):
        return self.log_beta.exp().item()


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
        "B117",
        "clipped ratio as the objective",
        "allenai/open-instruct@0fecacc93",
        CispoClippedObjective,
        Cispo,
        ("gradient_flow",),
        Contract(family="policy_gradient", normalizer="global", surrogate_gradient=True),
        bare=UNSEEN,
    ),
    Fault(
        "B119",
        "teacher not detached",
        "huggingface/sentence-transformers@99b0a84c",
        LiveTeacher,
        DetachedTeacher,
        ("gradient_flow",),
        KD,
        bare=ADVICE,
    ),
    Fault(
        "B120", "computed under no_grad", "OpenRLHF/OpenRLHF@1fc0ff25", UnderNoGrad, DetachedTeacher, ("interface",), KD
    ),
    Fault(
        "B121",
        "student term from the teacher's logits",
        "labmlai/annotated_deep_learning_paper_implementations#66",
        StudentIsTeacher,
        DetachedTeacher,
        ("interface", "gradient_flow"),
        KD,
    ),
    Fault(
        "B124",
        "clamp before halving",
        "kornia/kornia@e3981b63e",
        ClampBeforeHalving,
        ClampAfterHalving,
        ("gradient_flow", "positivity"),
        Contract(family="contrastive", lower_bound=0.0, upper_bound=1.0),
        bare=UNSEEN,
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
    Fault("X31", "old policy not detached", "", LiveOldPolicy, DetachedOldPolicy, ("gradient_flow",), PG, bare=ADVICE),
    Fault("X32", "backward replaces .grad", "", BackwardReplaces, Nll, ("gradient_flow",), SFT),
    Fault(
        "X33",
        "everything detached",
        "",
        BothDetached,
        DividedOnce,
        ("gradient_flow",),
        Contract(family="preference", level="pair"),
    ),
    Fault(
        "X34",
        "live advantage trains the critic",
        "",
        LiveAdvantage,
        DetachedAdvantage,
        ("gradient_flow",),
        Contract(family="composite", normalizer="global", surrogate_gradient=True),
        bare=UNSEEN,
    ),
    Fault(
        "X35",
        "learned temperature through .item()",
        "",
        TemperatureByItem,
        Temperature,
        ("gradient_flow",),
        Contract(family="preference", level="pair", normalizer="global"),
    ),
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
