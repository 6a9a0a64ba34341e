"""Losses of verl, OpenRLHF and NeMo RL as they are written there: no package to install holds them without a cluster stack."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.interop.released import failed


def verl_policy(old_log_prob, log_prob, advantages, response_mask, cliprange=0.2, clip_ratio_c=3.0):
    ratio = torch.exp(torch.clamp(log_prob - old_log_prob, min=-20.0, max=20.0))
    clipped = torch.maximum(-advantages * ratio, -advantages * torch.clamp(ratio, 1 - cliprange, 1 + cliprange))
    bounded = torch.min(-advantages * clip_ratio_c, clipped)
    losses = torch.where(advantages < 0, bounded, clipped)
    return (losses * response_mask).sum() / (response_mask.sum() + 1e-8)


def verl_value(vpreds, returns, values, response_mask, cliprange_value=0.5):
    clipped = torch.clamp(vpreds, values - cliprange_value, values + cliprange_value)
    losses = torch.max((vpreds - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * (losses * response_mask).sum() / (response_mask.sum() + 1e-8)


def openrlhf_policy(log_probs, old_log_probs, advantages, action_mask=None, clip_eps=0.2):
    ratio = (log_probs - old_log_probs).exp()
    losses = -torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)
    if action_mask is None:
        return losses.mean()
    return ((losses * action_mask).sum(-1) / action_mask.sum(-1)).mean()


class OpenRLHFDPO(nn.Module):
    def __init__(self, beta=0.1, label_smoothing=0.0):
        super().__init__()
        self.beta, self.label_smoothing = beta, label_smoothing

    def forward(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
        x = policy_chosen_logps - policy_rejected_logps - (reference_chosen_logps - reference_rejected_logps)
        wanted, other = F.logsigmoid(self.beta * x), F.logsigmoid(-self.beta * x)
        losses = -wanted * (1 - self.label_smoothing) - other * self.label_smoothing
        rewards = (self.beta * (policy_chosen_logps - reference_chosen_logps)).detach()
        return losses.mean(), rewards


def trl_grpo(per_token_logps, old_per_token_logps, ref_per_token_logps, advantages, completion_mask, beta=0.04):
    ratio = (per_token_logps - old_per_token_logps).exp()
    signed = advantages.unsqueeze(1)
    losses = -torch.min(ratio * signed, ratio.clamp(0.8, 1.2) * signed)
    delta = ref_per_token_logps - per_token_logps
    losses = losses + beta * (delta.exp() - delta - 1)
    return ((losses * completion_mask).sum(-1) / completion_mask.sum(-1).clamp(min=1.0)).mean()


class NeMoClippedPG:
    input_type = "LOGPROB"

    def __call__(self, data, global_valid_seqs, global_valid_toks, next_token_logprobs):
        mask = data["token_mask"][:, 1:] * data["sample_mask"][:, None]
        advantages = data["advantages"][:, 1:]
        ratio = (next_token_logprobs - data["prev_logprobs"][:, 1:]).exp()
        losses = torch.max(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2))
        loss = (losses * mask).sum() / (global_valid_toks + 1e-8)
        return loss, {"loss": loss.item()}


class NeMoDPO:
    input_type = "LOGPROB"

    def __call__(self, data, global_valid_seqs, global_valid_toks, next_token_logprobs):
        gained = next_token_logprobs - data["reference_policy_logprobs"][:, 1:]
        rewards = (gained * data["token_mask"][:, 1:]).sum(-1)
        losses = -F.logsigmoid(0.05 * (rewards[0::2] - rewards[1::2])) * data["sample_mask"][::2]
        loss = losses.sum() / (global_valid_seqs / 2 + 1e-8)
        return loss, {"loss": loss.item()}


@pytest.mark.parametrize(
    "loss", [verl_policy, verl_value, openrlhf_policy, OpenRLHFDPO, trl_grpo, NeMoClippedPG(), NeMoDPO()]
)
def test_sound(loss):
    assert failed(loss) == set()
