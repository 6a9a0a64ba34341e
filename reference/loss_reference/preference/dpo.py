"""Direct preference optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import token_constant, trained_logprobs
from loss_reference.pairs import mean_of_pairs, split_pairs
from loss_reference.preference.layout import PAIR_LAYOUT, ROLLED_REFERENCE, ReferencedPairsLoss
from loss_reference.reduction import row_weights
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["DPOLoss", "dpo", "sequence_log_ratio"]


def dpo(delta: Tensor, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """Return -(1 - e) log sigma(beta delta) - e log sigma(-beta delta), one term per pair.

    Args:
        delta: h_w - h_l [N], the log-ratio of the chosen minus that of the rejected sequence, in nats.
        beta: strength of the pull towards the reference, above 0.
        label_smoothing: e in [0, 1/2], the probability that a pair is labelled the wrong way round.
    """
    x = beta * delta
    if label_smoothing == 0:  # of an impossible rejected answer, delta = inf, the other term is 0 times inf
        return -F.logsigmoid(x)
    return -(1 - label_smoothing) * F.logsigmoid(x) - label_smoothing * F.logsigmoid(-x)


def sequence_log_ratio(batch: Batch, model_outputs: Outputs, average: bool = False) -> tuple[Tensor, Tensor]:
    """Return (h, w), each [B]: h_b = sum_t m (lp - lp_ref), or its mean over trained tokens, and the row weights.

    ``next_token_logprobs`` (or ``logits``) receives gradient, ``reference_policy_logprobs`` does not.
    """
    lp, m = trained_logprobs(batch, model_outputs)
    lp_ref = token_constant(batch, "reference_policy_logprobs", m)
    h = (lp - lp_ref).sum(dim=1)
    lengths = (m != 0).sum(dim=1).clamp(min=1)
    return (h / lengths if average else h), row_weights(batch, lp)


@register("dpo")
class DPOLoss(ReferencedPairsLoss):
    """DPO: L = mean over pairs of -log sigma(beta (h_w - h_l)), h_b = sum_t m (lp - lp_ref).

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids``), ``reference_policy_logprobs``
    [B, S], ``token_mask`` [B, S]; optional ``sample_mask`` [B], ``global_valid_seqs``. Result in nats, at least 0 (with
    label smoothing at least the entropy of e), log 2 at policy = reference. Only the policy receives gradient:
    d/dh_w = -beta sigma(-beta delta) per pair.

    Config: ``beta`` (0.1, above 0); ``label_smoothing`` (0, conservative DPO as in OpenRLHF and torchtune, at most 1/2);
    ``average_log_probs`` (False; True divides each h by its length, TRL ``sigmoid_norm``); ``pair_layout``
    (``"interleaved"``, as NeMo RL lays pairs out; ``"halves"`` as TRL, Liger and OpenRLHF: chosen rows first);
    ``rolled_reference`` (False; True for the reference that NeMo RL hands its ``DPOLossFn``, rolled by one token: entry t
    speaks of token t + 1. Its policy-gradient losses get one that is not rolled, as all losses here do).

    Raises:
        ValueError: an odd number of rows, shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2305.18290, eq. 7; label smoothing: E. Mitchell, "A note on DPO with noisy preferences".
    """

    contract = Contract(
        family="preference",
        level="pair",
        normalizer="global",
        length_normalized=False,
        lower_bound=0.0,
        direction={"chosen_scores": -1, "rejected_scores": +1},
        options={
            "beta": Option(values=(0.1, 1.0)),
            "label_smoothing": Option(values=(0.0, 0.1)),
            "average_log_probs": Option(values=(False, True)),
            "pair_layout": PAIR_LAYOUT,
            "rolled_reference": ROLLED_REFERENCE,
        },
    )
    beta = Setting(0.1, above=0.0)
    label_smoothing = Setting(0.0, least=0.0, most=0.5)
    average_log_probs = Setting(False)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.label_smoothing > 0:  # a margin that is too large is pulled back
            self.contract = refine(self.contract, direction={})

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        h, w = sequence_log_ratio(batch, model_outputs, self.average_log_probs)
        h_w, h_l = split_pairs(h)
        return mean_of_pairs(dpo(h_w - h_l, self.beta, self.label_smoothing), w, batch)
