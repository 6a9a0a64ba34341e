"""Names and numbers taken for something else: token 0, half a yes, the side that a setting is named for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss_reference import Contract, Field, LossFunction, Option
from tests.faults.fault import ADVICE, UNSEEN, Fault

__all__ = ["FAULTS"]


def token_zero_left_out(logits: Tensor, labels: Tensor) -> Tensor:
    return _next_token(logits[:, :-1], labels[:, 1:], labels[:, 1:] > 0)


def every_token(logits: Tensor, labels: Tensor) -> Tensor:
    return _next_token(logits[:, :-1], labels[:, 1:], labels[:, 1:] != -100)


def _next_token(logits: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    # As large as -inf to the softmax, and 0 when it is multiplied with 0.
    lp = torch.where(keep[..., None], logits.float(), 0.0).log_softmax(-1).clamp(min=-1e30)
    picked = lp.gather(-1, torch.where(keep, labels, 0).unsqueeze(-1)).squeeze(-1)
    return -torch.where(keep, picked, 0.0).sum() / keep.sum().clamp(min=1)


class ShareOfSuccess(nn.Module):
    """A process reward model whose labels are shares of successful attempts."""

    def share(self, labels):
        return labels

    def forward(self, step_scores, step_labels):
        y = self.share(step_labels.detach())
        return -(y * F.logsigmoid(step_scores) + (1 - y) * F.logsigmoid(-step_scores)).mean()


class RoundedSuccess(ShareOfSuccess):
    def share(self, labels):
        return (labels > 0.5).to(labels)


class Expectile(nn.Module):
    """Asymmetric least squares."""

    def __init__(self, expectile=0.7):
        super().__init__()
        self.expectile = expectile

    def error(self, value, target):
        return target - value

    def forward(self, prediction, target):
        error = self.error(prediction, target.detach())
        return (torch.where(error > 0, self.expectile, 1 - self.expectile) * error.square()).mean()


class ExpectileOfOtherSide(Expectile):
    def error(self, value, target):
        return value - target


class FocalPairs(LossFunction):
    """Bradley-Terry that leaves pairs in the right order alone."""

    def __init__(self, config=None):
        super().__init__(config)
        self.focal_gamma = self.config.get("focal_gamma", 2.0)

    def uncertain(self, margin):
        return torch.sigmoid(-margin)

    def compute_loss(self, batch, model_outputs):
        m = torch.minimum(batch["sample_mask"][0::2], batch["sample_mask"][1::2])
        rewards = torch.where(batch["sample_mask"] != 0, model_outputs["rewards"].float(), 0.0)
        margin = rewards[0::2] - rewards[1::2]
        terms = -(self.uncertain(margin) ** self.focal_gamma) * F.logsigmoid(margin)
        pairs = batch["global_valid_seqs"] / 2 if "global_valid_seqs" in batch else m.sum()
        return (torch.where(m != 0, terms, 0.0) * m).sum() / pairs.clamp(min=1)


class FocalPairsOfTheWrong(FocalPairs):
    def uncertain(self, margin):
        return torch.sigmoid(margin)


class BalancedFocal(nn.Module):
    """Binary focal loss with a weight of positives."""

    def __init__(self, focal_alpha=0.25, focal_gamma=2.0):
        super().__init__()
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma

    def of_negatives(self):
        return 1 - self.focal_alpha

    def forward(self, logits, targets):
        y = targets.detach()
        positive = y * torch.sigmoid(-logits) ** self.focal_gamma * F.logsigmoid(logits)
        negative = (1 - y) * torch.sigmoid(logits) ** self.focal_gamma * F.logsigmoid(-logits)
        return -(self.focal_alpha * positive + self.of_negatives() * negative).mean()


class FocalWithOneWeight(BalancedFocal):
    def of_negatives(self):
        return self.focal_alpha


FAULTS = (
    Fault(
        "X483",
        "the mask is labels > 0: whatever token has the id 0 is never trained",
        "",
        token_zero_left_out,
        every_token,
        ("symmetry",),
        Contract(family="supervised", level="token"),
        bare=ADVICE,
    ),
    Fault(
        "X484",
        "shares of successful attempts are rounded to yes and no",
        "",
        RoundedSuccess,
        ShareOfSuccess,
        ("options",),
        Contract(
            family="reward",
            lower_bound=0.0,
            fields={
                "step_scores": Field("rewards", "B T", trainable=True),
                "step_labels": Field("probabilities", "B T", trainable=False),
            },
        ),
        bare=UNSEEN,
    ),
    Fault(
        "X485",
        "the expectile weighs what is too high instead of what is too low",
        "",
        ExpectileOfOtherSide,
        Expectile,
        ("options",),
        Contract(family="value", level="sample", lower_bound=0.0, options={"expectile": Option(values=(0.5, 0.9))}),
        bare=ADVICE,
    ),
    Fault(
        "X486",
        "the focal factor spares the pairs in the wrong order",
        "",
        FocalPairsOfTheWrong,
        FocalPairs,
        ("options",),
        Contract(
            family="reward",
            level="pair",
            normalizer="global",
            lower_bound=0.0,
            options={"focal_gamma": Option(values=(0.0, 2.0))},
        ),
        bare=ADVICE,
    ),
    Fault(
        "X487",
        "alpha weighs negatives as well, instead of 1 - alpha",
        "qubvel/segmentation_models#259",
        FocalWithOneWeight,
        BalancedFocal,
        ("options",),
        Contract(
            family="supervised",
            level="sample",
            lower_bound=0.0,
            options={"focal_alpha": Option(values=(0.25, 0.5)), "focal_gamma": Option(values=(0.0, 2.0))},
        ),
        bare=ADVICE,
    ),
)
