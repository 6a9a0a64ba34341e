"""Top-K distillation with one bucket for all other tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.distillation.divergence import TEMPERATURE, DivergenceLoss
from loss_reference.distillation.kl import kl_of_type
from loss_reference.distillation.teacher import teacher_logits
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import global_count, mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.supervised.next_token import trained_logits
from loss_reference.token_level import refine

__all__ = ["TailBucketLoss", "tail_bucket", "with_tail"]


def with_tail(log_a: Tensor, support: Tensor) -> Tensor:
    """Return [..., K+1]: the log-probabilities of the K tokens of ``support``, then that of all others together.

    The tail is the log-sum-exp of the others and not log(1 - sum of the K), which cancels; -inf when there are none.

    Args:
        log_a: log-probabilities [..., V].
        support: K different token ids [..., K].
    """
    others = log_a.scatter(-1, support, -torch.inf)
    nothing = torch.isneginf(others).all(dim=-1, keepdim=True)
    # The derivative of a log-sum-exp of nothing but -inf is NaN.
    tail = others.masked_fill(nothing, 0.0).logsumexp(dim=-1, keepdim=True).masked_fill(nothing, -torch.inf)
    return torch.cat((log_a.gather(-1, support), tail), dim=-1)


def tail_bucket(log_p: Tensor, log_q: Tensor, support: Tensor, kl_type: str = "forward") -> Tensor:
    """Return the KL between p and q over K tokens and "any other token", one term per position.

    Args:
        log_p, log_q: log-probabilities [..., V] of teacher and student, in nats.
        support: K different token ids [..., K].
        kl_type: ``"forward"`` KL(p || q) or ``"reverse"`` KL(q || p).
    """
    return kl_of_type(kl_type, with_tail(log_p, support), with_tail(log_q, support))


@register("tail_bucket")
class TailBucketLoss(LossFunction):
    """Top-K divergence with a tail bucket: v = KL of two distributions over K tokens and "any other token".

    Reads ``logits`` and ``teacher_logits`` [B, S, V] and ``token_mask`` [B, S]; optional ``sample_mask`` [B],
    ``global_valid_toks``. The K tokens are the teacher's likeliest for the forward divergence, the student's for the
    reverse one (the choice itself carries no gradient), each with its true probability. In nats per token, at least 0 and
    never above the full divergence, which it is for K >= V: merging tokens loses information. Only the student receives
    gradient. TRL forms the tail as 1 minus the sum of the K, kept at 1e-7 or more; here it is exact.

    Config: ``k`` (64, at least 1); ``kl_type`` (``"forward"``: KL(p || q), or ``"reverse"``: KL(q || p)); ``temperature``
    (1, above 0).

    Raises:
        KeyError: no ``teacher_logits``.
        ValueError: shapes that do not belong together.
        ConfigError: a setting out of range or unknown.

    Source: TRL's self-distillation and importance-weighted on-policy distillation trainers.
    """

    contract = refine(
        DivergenceLoss.contract,
        options={
            "temperature": TEMPERATURE,
            "k": Option(values=(1, 2, 64)),
            "kl_type": Option(values=("forward", "reverse")),
        },
    )
    temperature = Setting(1.0, above=0.0)
    k = Setting(64, least=1)
    kl_type = Setting("forward", choices=("forward", "reverse"))

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        z_q, m = trained_logits(batch, model_outputs)
        z_p = teacher_logits(batch, m, z_q.shape[-1])
        log_p, log_q = (z_p / self.temperature).log_softmax(dim=-1), (z_q / self.temperature).log_softmax(dim=-1)
        K = min(self.k, z_q.shape[-1])
        support = (z_p if self.kl_type == "forward" else z_q.detach()).topk(K, dim=-1).indices
        terms = tail_bucket(log_p, log_q, support, self.kl_type)
        return mean_of_terms(terms, m, global_count(batch, "global_valid_toks"))
