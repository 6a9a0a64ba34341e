"""Negative log-likelihood of the next token."""

from __future__ import annotations

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import trained_logprobs
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.supervised.contract import SUPERVISED
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["NLLLoss", "nll"]


def nll(lp: Tensor) -> Tensor:
    """Return -lp in nats, one term per token, for the log-probabilities lp of the targets, of any shape."""
    return -lp


@register("nll", "sft")
class NLLLoss(TokenLevelLoss):
    """NLL: L = -sum m lp / T_g, the cross entropy of the trained tokens; also known as the SFT loss.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]) and ``token_mask`` [B, S];
    optional ``sample_mask`` [B], ``global_valid_toks``, ``global_valid_seqs``. Result in nats per token, at least 0; log V
    for uniform logits. The model receives gradient: dL/dlp = -m / T_g, dL/dlogits = m (softmax - onehot) / T_g.

    Config: ``aggregation`` (``"token_mean"``); ``max_length`` (above 0, needed by ``"fixed"``); ``chunk_size`` (None; the
    log-softmax of ``logits`` over so many positions at a time: less memory, the same numbers).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Liger's cross entropy is this one; its ``softcap`` and ``label_smoothing`` are those of ``label_smoothed_ce``, its
    ``lse_square_scale`` is ``z_loss``, its class weights are ``weighted_nll`` with ``divisor="weights"``.

    Source: maximum likelihood; NeMo RL ``NLLLossFn``, Hugging Face ``num_items_in_batch``.
    """

    contract = refine(
        SUPERVISED,
        direction={"next_token_logprobs": -1},
        options={**AGGREGATION_OPTIONS, "chunk_size": Option(values=(None, 1, 3), inert=True)},
    )
    chunk_size = Setting[int | None](None, least=1, optional=True, whole=True)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs, self.chunk_size)
        return self.reduce(nll(lp), m, batch)
