"""Cross entropy that does not ask for certainty: smoothed labels, and a penalty on confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import Setting
from loss_reference.supervised.contract import SUPERVISED
from loss_reference.supervised.next_token import next_tokens, sampled, trained_logits
from loss_reference.supervised.softcap import SOFTCAP, capping, softcapped
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["ConfidencePenaltyLoss", "LabelSmoothedCELoss", "confidence_penalty", "label_smoothed_ce"]


def label_smoothed_ce(log_pi: Tensor, y: Tensor, label_smoothing: float = 0.1, spread: str = "vocabulary") -> Tensor:
    """Return -sum_v q_v log pi_v, where q gives 1 - e to the token y and spreads e over others, one term per token.

    Args:
        log_pi: log-probabilities [..., V].
        y: token ids [...].
        label_smoothing: e in [0, 1].
        spread: ``"vocabulary"``, e / V for each of the V tokens, y included; ``"others"``, e / (V - 1) for each but y.
    """
    nll, V = -sampled(log_pi, y), log_pi.shape[-1]
    if label_smoothing == 0:  # a token that cannot be chosen, log pi = -inf, is no part of the plain cross entropy
        return nll
    share = label_smoothing / (V if spread == "vocabulary" else max(V - 1, 1))
    kept = 1 - label_smoothing - (0.0 if spread == "vocabulary" else share)
    return kept * nll - share * log_pi.sum(dim=-1)


def confidence_penalty(log_pi: Tensor, y: Tensor, coefficient: float = 0.1) -> Tensor:
    """Return -log pi_y - c H(pi), with the entropy H(pi) = -sum_v pi_v log pi_v and 0 log 0 = 0, one term per token.

    Args:
        log_pi: log-probabilities [..., V].
        y: token ids [...].
        coefficient: c, at least 0.
    """
    possible = log_pi > -math.inf
    entropy = -(log_pi.exp() * torch.where(possible, log_pi, 0.0)).sum(dim=-1)
    return -sampled(log_pi, y) - coefficient * entropy


@register("label_smoothed_ce")
class LabelSmoothedCELoss(TokenLevelLoss):
    """Label smoothing: l = -sum_v q_v log pi_v, q = (1 - e) onehot(y) + e / V for next token y.

    Reads ``logits`` [B, S, V], ``input_ids`` and ``token_mask`` [B, S]; optional ``sample_mask`` [B],
    ``global_valid_toks``, ``global_valid_seqs``. Result in nats per token, at least the entropy of q, reached at pi = q;
    ``nll`` for e = 0; log V for uniform logits whatever e is. The model receives gradient:
    dL/dlogits = m (softmax - q) / T_g. With e above 0 a logit of -inf makes the loss infinite: q wants every token.

    Config: ``label_smoothing`` e (0.1, from 0 to 1); ``spread`` (``"vocabulary"``: the target too gets its e / V, as in
    PyTorch and Liger; ``"others"``: e / (V - 1) to each token but the target, as in fairseq); ``softcap`` s (None; above 0:
    pi is the softmax of s tanh(logits / s), Liger ``softcap``, ``final_logit_softcapping`` of Gemma in transformers; the
    gradient above is then that of the capped logits, times 1 - tanh^2, and -inf is no more than -s); ``aggregation``
    (``"token_mean"``); ``max_length`` (above 0, needed by ``"fixed"``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: arXiv 1512.00567, section 7.
    """

    contract = refine(
        SUPERVISED,
        options={
            **AGGREGATION_OPTIONS,
            "label_smoothing": Option(values=(0.0, 0.1, 0.5)),
            "spread": Option(values=("vocabulary", "others")),
            "softcap": SOFTCAP,
        },
    )
    label_smoothing = Setting(0.1, least=0.0, most=1.0)
    spread = Setting("vocabulary", choices=("vocabulary", "others"), read_when=unless("label_smoothing", 0))
    softcap = Setting[float | None](None, above=0.0, optional=True)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.softcap is None:
            smoothing = Option(values=(0.0, 0.1, 0.5), reduces_to={0.0: "nll"})
            self.contract = refine(self.contract, options={**self.contract.options, "label_smoothing": smoothing})
        else:
            self.contract = capping(self.contract)
            if self.label_smoothing > 0:
                reason = "every token has its share of the label, and with softcap none is impossible"
                self.contract = refine(self.contract, exempt={**self.contract.exempt, "impossible_tokens": reason})

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        z, m = trained_logits(batch, model_outputs)
        y = next_tokens(batch, m, z.shape[-1])
        log_pi = softcapped(z, self.softcap).log_softmax(dim=-1)
        return self.reduce(label_smoothed_ce(log_pi, y, self.label_smoothing, self.spread), m, batch)


@register("confidence_penalty")
class ConfidencePenaltyLoss(TokenLevelLoss):
    """Confidence penalty: l = -log pi_y - c H(pi), the cross entropy of next token y less c times the entropy.

    Reads ``logits`` [B, S, V], ``input_ids`` and ``token_mask`` [B, S]; optional ``sample_mask`` [B],
    ``global_valid_toks``, ``global_valid_seqs``. Result in nats per token, of either sign: at least
    -c log V, which no c above 0 reaches (uniform logits, where the entropy is largest, give (1 - c) log V); ``nll`` for
    c = 0. The model receives gradient: dL/dlogits_v = m [pi_v - 1(v = y) + c pi_v (log pi_v + H)] / T_g. A token
    of probability 0 adds nothing to H.

    Config: ``coefficient`` c (0.1, at least 0); ``aggregation`` (``"token_mean"``); ``max_length`` (above 0, needed by
    ``"fixed"``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: arXiv 1701.06548.
    """

    contract = refine(
        SUPERVISED,
        lower_bound=-math.inf,
        direction={"coefficient": -1},
        options={**AGGREGATION_OPTIONS, "coefficient": Option(values=(0.0, 0.1, 1.0), reduces_to={0.0: "nll"})},
    )
    coefficient = Setting(0.1, least=0.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        z, m = trained_logits(batch, model_outputs)
        y = next_tokens(batch, m, z.shape[-1])
        return self.reduce(confidence_penalty(z.log_softmax(dim=-1), y, self.coefficient), m, batch)
