"""Correct policy-gradient, value and preference-label losses, without any contract."""

from __future__ import annotations

import torch

from loss_reference import LossFunction


class Cispo(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        keep = mask > 0
        lp = torch.where(keep, model_outputs["next_token_logprobs"], 0.0)
        old = torch.where(keep, batch["prev_logprobs"][:, 1:], 0.0)
        adv = torch.where(keep, batch["advantages"][:, 1:], 0.0)
        ratio = torch.exp(lp - old).clamp(max=3.0).detach()
        return -(ratio * adv * lp * mask).sum() / batch["global_valid_toks"].clamp(min=1)


class Ppo(LossFunction):
    """Clipped surrogate, exponent unclamped, nothing detached."""

    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        keep = mask != 0
        log_ratio = torch.where(keep, model_outputs["next_token_logprobs"] - batch["prev_logprobs"][:, 1:], 0.0)
        ratio = log_ratio.exp()
        adv = torch.where(keep, batch["advantages"][:, 1:], 0.0)
        loss = -torch.min(ratio * adv, ratio.clamp(0.8, 1.2) * adv)
        return (loss * mask).sum() / mask.sum().clamp(min=1)


class Kto(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        difference = model_outputs["next_token_logprobs"] - batch["reference_policy_logprobs"][:, 1:]
        h = torch.where(mask > 0, difference, 0.0).sum(1)
        z = (h * batch["sample_mask"]).sum().detach().clamp(min=0) / batch["sample_mask"].sum().clamp(min=1)
        sign = torch.where(batch["labels"] == 1, 1.0, -1.0)
        terms = 1 - torch.sigmoid(0.1 * sign * (h - z))
        return (terms * batch["sample_mask"]).sum() / batch["sample_mask"].sum().clamp(min=1)


class Gspo(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        keep = mask > 0
        length = keep.sum(1).clamp(min=1)
        log_ratio = torch.where(keep, model_outputs["next_token_logprobs"] - batch["prev_logprobs"][:, 1:], 0.0)
        ratio = (log_ratio.sum(1) / length).clamp(max=10).exp()
        adv = torch.where(keep, batch["advantages"][:, 1:], 0.0).sum(1) / length
        terms = -torch.min(ratio * adv, ratio.clamp(1 - 3e-4, 1 + 4e-4) * adv)
        return (terms * batch["sample_mask"]).sum() / batch["sample_mask"].sum().clamp(min=1)


class DrGrpo(LossFunction):
    """A fixed divisor instead of any length."""

    def __init__(self, config=None):
        super().__init__(config)
        self.max_tokens = self.config.get("max_tokens", 16.0)

    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        keep = mask > 0
        ratio = torch.where(keep, model_outputs["next_token_logprobs"] - batch["prev_logprobs"][:, 1:], 0.0).exp()
        adv = torch.where(keep, batch["advantages"][:, 1:], 0.0)
        per_row = (-torch.min(ratio * adv, ratio.clamp(0.8, 1.28) * adv) * mask).sum(1)
        return per_row.sum() / self.max_tokens / batch["sample_mask"].sum().clamp(min=1)


class EntropyBonus(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        logits = torch.where(mask[..., None] > 0, model_outputs["logits"][:, :-1], 0.0)
        dist = torch.distributions.Categorical(logits=logits.clamp(min=-1e4), validate_args=False)
        lp = dist.log_prob(batch["input_ids"][:, 1:])
        adv = torch.where(mask > 0, batch["advantages"][:, 1:], 0.0)
        return ((-adv * lp - 0.01 * dist.entropy()) * mask).sum() / mask.sum().clamp(min=1)


class ClippedValues(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"] * batch["sample_mask"][:, None]
        keep = mask > 0
        v, old, ret = (torch.where(keep, x, 0.0) for x in (model_outputs["values"], batch["values"], batch["returns"]))
        clipped = old + (v - old).clamp(-0.2, 0.2)
        loss = 0.5 * torch.max((v - ret) ** 2, (clipped - ret) ** 2)
        return (loss * mask).sum() / mask.sum().clamp(min=1)


class WhiteningInside(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        adv = torch.where(mask > 0, batch["advantages"][:, 1:], 0.0)
        n = mask.sum().clamp(min=1)
        mean = (adv * mask).sum() / n
        var = ((adv - mean).square() * mask).sum() / n
        adv = (adv - mean) * torch.rsqrt(var + 1e-8)
        lp = torch.where(mask > 0, model_outputs["next_token_logprobs"], 0.0)
        return -(adv * lp * mask).sum() / n


class GrpoGlobal(LossFunction):
    """GRPO with k3 on the global counts."""

    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        keep = mask > 0
        lp, old, ref, adv = (
            torch.where(keep, x, 0.0)
            for x in (
                model_outputs["next_token_logprobs"],
                batch["prev_logprobs"][:, 1:],
                batch["reference_policy_logprobs"][:, 1:],
                batch["advantages"][:, 1:],
            )
        )
        ratio = (lp - old).exp()
        policy = -torch.min(ratio * adv, ratio.clamp(0.8, 1.2) * adv)
        kl = (ref - lp).exp() - (ref - lp) - 1
        total = ((policy + 0.04 * kl) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return (total * batch["sample_mask"]).sum() / batch["global_valid_seqs"].clamp(min=1)


def policy_loss(log_prob, old_log_prob, advantages, response_mask, cliprange=0.2):
    """verl's shape of the clipped loss."""
    ratio = torch.exp(torch.clamp(log_prob - old_log_prob, -20, 20))
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange))
    return (torch.where(response_mask.bool(), losses, 0.0)).sum() / response_mask.sum().clamp(min=1)


POLICY = (Cispo, Ppo, Gspo, DrGrpo, EntropyBonus, ClippedValues, WhiteningInside, GrpoGlobal, policy_loss, Kto)
