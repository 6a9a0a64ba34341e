"""Process reward model: a class for every step of an answer."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from loss_reference.contract import Contract, Field
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.logprobs import require_inside_vocabulary
from loss_reference.reduction import global_count, keep_active, mean_of_terms, token_weights
from loss_reference.registry import register
from loss_reference.sampled_logprob import sampled_logprob
from loss_reference.shapes import require_shape
from loss_reference.supervised.nll import nll

__all__ = ["UNLABELLED", "PRMTokenCELoss"]

UNLABELLED: Final = -100
"""The label of a token that ends no step."""


@register("prm_token_ce")
class PRMTokenCELoss(LossFunction):
    """Process reward model: L = -sum m log softmax(logits)[label] / T_g over the labelled tokens.

    Reads ``logits`` [B, S, C] over C classes, ``step_labels`` [B, S], whole numbers in [0, C) or -100 for a token without
    label, and ``token_mask`` [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``. Entry t of ``logits`` scores
    token t itself, not the next one; entry 0 means nothing, as everywhere. A token weighs its masks where it has a
    label, else nothing; T_g is the local sum of these weights unless given. Result in nats per label, at least 0, log C
    for uniform logits. The model receives gradient: dL/dlogits = m (softmax - onehot) / T_g.

    Raises:
        KeyError: no ``logits`` or no ``step_labels``.
        ValueError: shapes that do not belong together, a label outside [0, C) that is not -100.
        ConfigError: any setting: it has none.

    Terms: ``nll`` of the labels.

    Source: arXiv 2211.14275; with two classes, right and wrong, TRL's trainer of process reward models.
    """

    contract = Contract(
        family="reward",
        level="token",
        normalizer="global",
        length_normalized=True,
        lower_bound=0.0,
        fields={"logits": Field("logits", "B S V", speaks_of="itself"), "step_labels": Field("labels", "B S")},
    )
    strict_config = True

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        logits, labels = model_outputs["logits"], batch["step_labels"]
        tokens = tuple(batch["token_mask"].shape)
        require_shape("logits", logits, (*tokens, "C"), "C scores per entry of token_mask")
        require_shape("step_labels", labels, tokens, "one label per entry of token_mask")
        m = token_weights(batch, logits[:, 1:, 0]) * (labels[:, 1:] != UNLABELLED)
        y = keep_active(labels[:, 1:], m).long()
        require_inside_vocabulary("step_labels", y, logits.shape[-1])
        terms = nll(sampled_logprob(logits[:, 1:], y, m != 0))
        return mean_of_terms(terms, m, global_count(batch, "global_valid_toks"))
