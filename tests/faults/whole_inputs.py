"""Rows, groups, masks and samples by names of their own: each is used whole, and for what it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, Field, LossFunction
from tests.faults.fault import ADVICE, UNSEEN, Fault
from tests.faults.parts import constant, kept, policy, row_mean, row_weights, token_weights


class OneFloor(LossFunction):
    """REINFORCE over the tokens of the batch itself."""

    def tokens(self, m):
        return m.sum().clamp(min=1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        terms = -constant(batch, "advantages", m) * policy(model_outputs, m)
        return (terms * m).sum() / self.tokens(m)


class FloorOfEachRow(OneFloor):
    def tokens(self, m):
        return m.sum(-1).clamp(min=1).sum()


def _token_pairs(chosen_rewards, rejected_rewards, mask):
    gap = torch.where(mask != 0, chosen_rewards - rejected_rewards, 0.0)
    return (-F.logsigmoid(gap) * mask).sum() / mask.sum().clamp(min=1)


def as_far_as_both(chosen_rewards, rejected_rewards, chosen_mask, rejected_mask):
    return _token_pairs(chosen_rewards, rejected_rewards, torch.minimum(chosen_mask, rejected_mask))


def as_far_as_either(chosen_rewards, rejected_rewards, chosen_mask, rejected_mask):
    return _token_pairs(chosen_rewards, rejected_rewards, torch.maximum(chosen_mask, rejected_mask))


def _around(policy_logps, reference_logps, labels, z):
    h = 0.1 * (policy_logps - reference_logps.detach() - z)
    return torch.where(labels > 0.5, torch.sigmoid(-h), torch.sigmoid(h)).mean()


def all_parts(policy_logps, reference_logps, labels, sampled_logps=None):
    if sampled_logps is None:
        return _around(policy_logps, reference_logps, labels, 0.0)
    z = sum(part.detach().sum() for part in sampled_logps.split(2)) / sampled_logps.numel()
    return _around(policy_logps, reference_logps, labels, z)


def last_part(policy_logps, reference_logps, labels, sampled_logps=None):
    z = 0.0
    for part in () if sampled_logps is None else sampled_logps.split(2):
        z = part.detach().mean()
    return _around(policy_logps, reference_logps, labels, z)


def beyond_an_offset(policy_chosen_logps, policy_rejected_logps, margin):
    return -F.logsigmoid(0.1 * (policy_chosen_logps - policy_rejected_logps) - margin.detach()).mean()


def beyond_every_offset(policy_chosen_logps, policy_rejected_logps, margin):
    margin = margin.detach().unsqueeze(-1)
    return -F.logsigmoid(0.1 * (policy_chosen_logps - policy_rejected_logps) - margin).mean()


def own_weight(input, target, priority=None):
    terms = (input - target.detach()).square()
    return terms.mean() if priority is None else (terms * priority.detach()).mean()


def everybodys_weight(input, target, priority=None):
    terms = (input - target.detach()).square()
    return terms.mean() if priority is None else (terms * priority.detach()[:, None]).mean()


class FourAnswers(LossFunction):
    """Four answers to each prompt; an advantage is the reward less the mean of its prompt."""

    def baseline(self, r):
        return r.mean(1, keepdim=True).expand_as(r)

    def compute_loss(self, batch, model_outputs):
        m, w = token_weights(batch), row_weights(batch, batch["rewards"])
        r = torch.where(w != 0, batch["rewards"].detach(), 0.0).view(-1, 4)
        a = (r - self.baseline(r)).flatten()
        return row_mean(-a * (kept(policy(model_outputs, m), m) * m).sum(1), w, batch)


class NeighbouringPrompt(FourAnswers):
    """The baseline is that of another prompt."""

    def baseline(self, r):
        return super().baseline(r).flip(0)


def _fields(**of):
    return {name: Field(role, shape, trainable=trainable) for name, (role, shape, trainable) in of.items()}


FAULTS = (
    Fault(
        "X447",
        "every fully masked answer adds one token to the divisor",
        "radixark/miles#2796",
        FloorOfEachRow,
        OneFloor,
        ("masking",),
        Contract(family="policy_gradient", level="token", normalizer="local"),
    ),
    Fault(
        "X448",
        "token rewards are compared to the end of the longer answer",
        "deepspeedai/DeepSpeedExamples#316",
        as_far_as_either,
        as_far_as_both,
        ("masking",),
        Contract(
            family="reward",
            fields=_fields(
                chosen_rewards=("rewards", "N S", True),
                rejected_rewards=("rewards", "N S", True),
                chosen_mask=("mask", "N S", False),
                rejected_mask=("mask", "N S", False),
            ),
        ),
        bare=ADVICE,
    ),
    Fault(
        "X449",
        "each part of the sample overwrites the estimate of the one before",
        "PKU-Alignment/align-anything#216",
        last_part,
        all_parts,
        ("options",),
        Contract(
            family="preference",
            coupled=True,
            lower_bound=0.0,
            fields=_fields(
                policy_logps=("logprobs", "B", True),
                reference_logps=("logprobs", "B", False),
                sampled_logps=("logprobs", "M", False),
                labels=("labels", "B", False),
            ),
        ),
        bare=UNSEEN,
        advice=True,
    ),
    Fault(
        "X455",
        "an [N, 1] margin meets every pair",
        "",
        beyond_every_offset,
        beyond_an_offset,
        ("symmetry",),
        Contract(
            family="preference",
            level="pair",
            fields=_fields(
                policy_chosen_logps=("logprobs", "N", True),
                policy_rejected_logps=("logprobs", "N", True),
                margin=("weights", "N", False),
            ),
        ),
    ),
    Fault(
        "X456",
        "every row is weighted with everyone's weight",
        "",
        everybodys_weight,
        own_weight,
        ("symmetry",),
        Contract(
            family="supervised",
            fields=_fields(
                input=("values", "N", True), target=("values", "N", False), priority=("weights", "N", False)
            ),
        ),
        bare=UNSEEN,
    ),
    Fault(
        "X457",
        "the baselines of the prompts stand in the wrong order",
        "",
        NeighbouringPrompt,
        FourAnswers,
        ("symmetry",),
        Contract(family="policy_gradient", level="sequence", normalizer="global", group_size=4),
    ),
)
