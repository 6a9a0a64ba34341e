"""Mistakes behind a declaration: a mask along an axis of its own, labels declared as such, words, a promised divisor."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss_reference import Contract, Field, LossFunction, Option
from tests.faults.fault import ADVICE, UNSEEN, Fault
from tests.faults.parts import constant, policy, token_mean, token_weights

__all__ = ["FAULTS"]


class LikelihoodOfTheBest(LossFunction):
    """Policy gradient, and the negative log-likelihood of rewarded answers over all tokens."""

    def likelihood(self, lp, positive, m, batch):
        return token_mean(-lp * positive, m, batch)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        positive = (batch["rewards"].detach() > 0).to(lp.dtype)[:, None]
        return token_mean(-constant(batch, "advantages", m) * lp, m, batch) + 0.1 * self.likelihood(
            lp, positive, m, batch
        )


class LikelihoodOfItsOwnCount(LikelihoodOfTheBest):
    def likelihood(self, lp, positive, m, batch):
        return -(lp * positive * m).sum() / (positive * m).sum().clamp(min=1)


class ByWord(nn.Module):
    """DPO, its hinge or IPO, by a word."""

    def __init__(self, beta=0.1, loss_type="sigmoid"):
        super().__init__()
        self.beta, self.loss_type = beta, loss_type

    def terms(self, delta, loss_type="sigmoid"):
        if loss_type == "hinge":
            return F.relu(1 - self.beta * delta)
        if loss_type == "ipo":
            return (delta - 1 / (2 * self.beta)).square()
        return -F.logsigmoid(self.beta * delta)

    def forward(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
        delta = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
        return self.terms(delta, self.loss_type).mean()


class WordDropped(ByWord):
    def terms(self, delta, loss_type="sigmoid"):
        return super().terms(delta)


def _list_likelihood(logits: Tensor, mask: Tensor, padding: float) -> Tensor:
    x = torch.where(mask != 0, logits, padding)
    later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu()
    log_rest = x[:, None, :].expand(-1, x.shape[1], -1).masked_fill(~later, -1e30).logsumexp(-1)
    return torch.where(mask != 0, log_rest - x, 0.0).sum() / (mask != 0).any(1).sum().clamp(min=1)


def list_of_documents(logits: Tensor, mask: Tensor) -> Tensor:
    return _list_likelihood(logits, mask, -1e30)


def list_with_padding(logits: Tensor, mask: Tensor) -> Tensor:
    return _list_likelihood(logits, mask, 0.0)


def _nll_and_normaliser(logits: Tensor, labels: Tensor, penalty: Tensor) -> Tensor:
    counted = labels != -100
    n = counted.sum().clamp(min=1)
    x = torch.where(counted[..., None], logits, 0.0)
    lp = x.log_softmax(-1).gather(-1, torch.where(counted, labels, 0)[..., None]).squeeze(-1)
    return torch.where(counted, -lp, 0.0).sum() / n + 1e-3 * penalty.sum() / n


def normaliser_of_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    counted = labels != -100
    x = torch.where(counted[..., None], logits, 0.0)
    return _nll_and_normaliser(logits, labels, torch.where(counted, x.logsumexp(-1).square(), 0.0))


def normaliser_over_mask(logits: Tensor, labels: Tensor) -> Tensor:
    counted = labels != -100
    x = torch.where(counted[..., None], logits, 0.0)
    return _nll_and_normaliser(logits, labels, x.logsumexp(-1).square() / counted.to(x.dtype))


def penalty_of_pixels(embeddings: Tensor) -> Tensor:
    return ((embeddings.square().sum(1) + 1e-12).sqrt() - 1).square()


def penalty_of_samples(embeddings: Tensor) -> Tensor:
    return ((embeddings.square().sum((1, 2)) + 1e-12).sqrt() - 1).square()


FAULTS: Final = (
    Fault(
        "X450",
        "a part divided by the microbatch's own count",
        "NVIDIA-NeMo/RL#3792",
        LikelihoodOfItsOwnCount,
        LikelihoodOfTheBest,
        ("reduction",),
        Contract(family="policy_gradient", level="token", normalizer="global"),
        bare=ADVICE,
    ),
    Fault(
        "X451",
        "the word is not passed on",
        "modelscope/ms-swift#10167",
        WordDropped,
        ByWord,
        ("options",),
        Contract(family="preference", options={"loss_type": Option(values=("sigmoid", "hinge", "ipo"))}),
        bare=UNSEEN,
    ),
    Fault(
        "X452",
        "padding with a score of 0 in the normaliser of a list",
        "huggingface/sentence-transformers#3827",
        list_with_padding,
        list_of_documents,
        ("masking",),
        Contract(fields={"logits": Field("logits", "B K", trainable=True), "mask": Field("mask", "B K")}),
    ),
    Fault(
        "X453",
        "divided by the mask instead of multiplied",
        "allenai/OLMo#523",
        normaliser_over_mask,
        normaliser_of_tokens,
        ("finite",),
        Contract(fields={"logits": Field("logits", "B S V", trainable=True), "labels": Field("labels", "B S")}),
    ),
    Fault(
        "X454",
        "the norm of every pixel for the norm of a sample",
        "caogang/wgan-gp#27",
        penalty_of_pixels,
        penalty_of_samples,
        ("reduction",),
        Contract(output="terms", level="sample", fields={"embeddings": Field("embeddings", "B C P", trainable=True)}),
        bare=UNSEEN,
    ),
)
