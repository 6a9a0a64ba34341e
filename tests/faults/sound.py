"""Correct losses in the styles people write them, most of them without any contract: none may be failed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import LossFunction
from tests.faults.sound_by_name import BY_NAME
from tests.faults.sound_choices import CHOICES
from tests.faults.sound_declared import DECLARED
from tests.faults.sound_policy import POLICY
from tests.faults.sound_released import RELEASED


class ZLoss(LossFunction):
    """Cross-entropy with a z-loss regulariser, through F.cross_entropy and -100."""

    def compute_loss(self, batch, model_outputs):
        mask = (batch["token_mask"] * batch["sample_mask"][:, None])[:, 1:] > 0
        labels = batch["input_ids"][:, 1:].masked_fill(~mask, -100)
        logits = model_outputs["logits"][:, :-1].masked_fill(~mask[..., None], 0.0)
        count = mask.sum().clamp(min=1)
        ce = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / count
        z = torch.where(mask, logits.logsumexp(-1), 0.0)
        return ce + 1e-3 * z.square().sum() / count


class FocalLoss(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"].unsqueeze(1)
        lp = torch.where(mask > 0, model_outputs["next_token_logprobs"], torch.zeros_like(mask))
        return (mask * -torch.expm1(lp).square() * lp).sum() / mask.sum().clamp_min(1)


class LabelSmoothing(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = (batch["token_mask"] * batch["sample_mask"][:, None])[:, 1:]
        logits = torch.where(mask[..., None] > 0, model_outputs["logits"][:, :-1], 0.0)
        per_token = F.cross_entropy(
            logits.transpose(1, 2).clamp(min=-1e4), batch["input_ids"][:, 1:], label_smoothing=0.1, reduction="none"
        )
        return (per_token * mask).sum() / batch.get("global_valid_toks", mask.sum()).clamp(min=1)


class Dft(LossFunction):
    """Dynamic fine-tuning: -sg(p) log p."""

    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        lp = model_outputs["next_token_logprobs"].masked_fill(mask == 0, 0.0)
        return -(lp.exp().detach() * lp * mask).sum() / mask.sum().clamp(min=1.0)


class SimPo(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        lp = torch.where(mask > 0, model_outputs["next_token_logprobs"], 0.0)
        average = lp.sum(-1) / (mask > 0).sum(-1).clamp(min=1)
        margin = 2.0 * (average[::2] - average[1::2]) - 0.5
        weight = torch.min(batch["sample_mask"][::2], batch["sample_mask"][1::2])
        return (-F.logsigmoid(margin) * weight).sum() / weight.sum().clamp(min=1)


class Orpo(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        lp = torch.where(mask > 0, model_outputs["next_token_logprobs"], 0.0)
        average = lp.sum(-1) / (mask > 0).sum(-1).clamp(min=1)
        # log odds = log p - log(1 - p)
        odds = average - torch.log(-torch.expm1(average.clamp(max=-1e-4)))
        chosen, rejected = odds[0::2], odds[1::2]
        weight = torch.min(batch["sample_mask"][0::2], batch["sample_mask"][1::2])
        loss = -average[0::2] - 0.1 * F.logsigmoid(chosen - rejected)
        return (loss * weight).sum() / weight.sum().clamp(min=1)


class Ipo(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        difference = model_outputs["next_token_logprobs"] - batch["reference_policy_logprobs"][:, 1:]
        h = torch.where(mask > 0, difference, 0.0).sum(1) / (mask > 0).sum(1).clamp(min=1)
        weight = torch.min(batch["sample_mask"][0::2], batch["sample_mask"][1::2])
        terms = (h[0::2] - h[1::2] - 1 / (2 * 0.1)) ** 2
        return (terms * weight).sum() / weight.sum().clamp(min=1)


class JsDivergence(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        keep = mask[..., None] > 0
        p = torch.where(keep, model_outputs["logits"][:, :-1], 0.0).log_softmax(-1).clamp(min=-1e4)
        q = torch.where(keep, batch["teacher_logits"][:, :-1], 0.0).detach().log_softmax(-1).clamp(min=-1e4)
        m = torch.logsumexp(torch.stack([p, q]), 0) - torch.log(torch.tensor(2.0, device=p.device, dtype=p.dtype))
        js = 0.5 * (
            F.kl_div(m, p, log_target=True, reduction="none") + F.kl_div(m, q, log_target=True, reduction="none")
        )
        return (js.sum(-1) * mask).sum() / mask.sum().clamp(min=1)


class PairedRewards(LossFunction):
    """Bradley-Terry with a centring term."""

    def compute_loss(self, batch, model_outputs):
        r = model_outputs["rewards"]
        chosen, rejected = r[0::2], r[1::2]
        return (F.softplus(rejected - chosen) + 0.01 * (chosen + rejected) ** 2).mean()


class LabelledRewards(LossFunction):
    """A reward model on single labels, by BCE with logits."""

    def compute_loss(self, batch, model_outputs):
        return F.binary_cross_entropy_with_logits(
            model_outputs["rewards"], batch["labels"].to(model_outputs["rewards"].dtype)
        )


class SupCon(LossFunction):
    def compute_loss(self, batch, model_outputs):
        z = F.normalize(model_outputs["embeddings"], dim=1)
        sim = z @ z.T / 0.1
        self_mask = torch.eye(len(z), dtype=torch.bool, device=z.device)
        positive = (batch["labels"][:, None] == batch["labels"][None]) & ~self_mask
        if not positive.any():
            return z.sum() * 0
        log_prob = sim - sim.masked_fill(self_mask, float("-inf")).logsumexp(1, keepdim=True)
        count = positive.sum(1)
        mean = torch.where(positive, log_prob, 0.0).sum(1) / count.clamp(min=1)
        return -mean[count > 0].mean()


class Triplet(nn.Module):
    def forward(self, anchor, positive, negative):
        return F.triplet_margin_loss(anchor, positive, negative, margin=1.0)


def dpo_function(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    margin = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    return -F.logsigmoid(beta * margin).mean()


class SmoothedCrossEntropy(nn.Module):
    def __init__(self, smoothing=0.1):
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits, target):
        log_probs = logits.log_softmax(-1)
        nll = -log_probs.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        return ((1 - self.smoothing) * nll - self.smoothing * log_probs.mean(-1)).mean()


class Dice(nn.Module):
    def forward(self, logits, target):
        p = logits.softmax(1)
        y = F.one_hot(target, logits.shape[1]).to(p)
        overlap, size = (p * y).sum(0), (p + y).sum(0)
        return 1 - ((2 * overlap + 1) / (size + 1)).mean()


class LearnedTemperature(LossFunction):
    """InfoNCE with a learned scale, as in CLIP."""

    def __init__(self, config=None):
        super().__init__(config)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def compute_loss(self, batch, model_outputs):
        z = F.normalize(model_outputs["embeddings"], dim=-1)
        sim = self.log_scale.clamp(max=4.6).exp() * (z @ z.T)
        sim = sim.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), float("-inf"))
        anchors, others = batch["positive_pairs"].unbind(1)
        return F.cross_entropy(sim[anchors], others)


class UncertaintyWeighted(LossFunction):
    """Two tasks weighted by learned uncertainties: may be negative."""

    def __init__(self, config=None):
        super().__init__(config)
        self.log_var = nn.Parameter(torch.zeros(2))

    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        n = mask.sum().clamp(min=1)
        lp = torch.where(mask > 0, model_outputs["next_token_logprobs"], 0.0)
        error = torch.where(mask > 0, (model_outputs["values"] - batch["returns"])[:, 1:], 0.0)
        losses = torch.stack([-(lp * mask).sum() / n, (error.square() * mask).sum() / n])
        present = (mask.sum() > 0).to(n.dtype)
        return ((-self.log_var).exp() * losses).sum() + 0.5 * self.log_var.sum() * present


class Unlikelihood(LossFunction):
    """Lowers the probability of the tokens where the reward is negative."""

    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        lp = torch.where(mask > 0, model_outputs["next_token_logprobs"], -1.0)
        good = (batch["rewards"] >= 0)[:, None]
        terms = torch.where(good, -lp, -torch.log(-torch.expm1(lp.clamp(max=-1e-6))))
        return (terms * mask).sum() / mask.sum().clamp(min=1)


SOUND = (
    *POLICY,
    *BY_NAME,
    *CHOICES,
    *DECLARED,
    *RELEASED,
    ZLoss,
    FocalLoss,
    LabelSmoothing,
    Dft,
    SimPo,
    Orpo,
    Ipo,
    JsDivergence,
    PairedRewards,
    LabelledRewards,
    SupCon,
    Triplet,
    dpo_function,
    SmoothedCrossEntropy,
    Dice,
    LearnedTemperature,
    UncertaintyWeighted,
    Unlikelihood,
)
