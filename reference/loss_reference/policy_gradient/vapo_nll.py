"""VAPO's imitation of correct answers, an addition to the policy loss."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_reference.contract import Contract, Field, Option
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.logprobs import trained_logprobs
from loss_reference.reduction import global_count, mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.shapes import require_shape

__all__ = ["VAPONLLLoss", "correct_tokens"]


def correct_tokens(m: Tensor, r: Tensor) -> Tensor:
    """Return the weights m of the tokens [B, S-1] in rows with a reward r [B] above 0, and 0 in the others."""
    return torch.where((r > 0).unsqueeze(1), m, 0.0)


@register("vapo_nll")
class VAPONLLLoss(LossFunction):
    """VAPO positive-example NLL: L = mu sum_{rows with r > 0} m (-lp) / D, D the weight of the tokens of these rows.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``token_mask`` [B, S] and
    ``rewards`` [B]; optional ``sample_mask`` [B] and ``global_correct_toks``, the sum of m over the correct rows of the
    global batch. Without it D is the sum over *this* batch, as in NeMo RL, and microbatches do not add up. D is at least
    1; a batch without a correct row gives 0. Result in nats per token, at least 0. Only the policy receives gradient:
    dL/dlp = -mu m / D on correct rows, 0 on the others. With every row correct it is mu times ``nll``.

    Config: ``coefficient`` mu (1, at least 0; 0.1 in the paper, NeMo RL ``positive_example_nll_weight``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Terms: -lp at ``correct_tokens``.

    Source: arXiv 2504.05118, eq. 10.
    """

    contract = Contract(
        family="policy_gradient",
        level="token",
        normalizer="local",
        lower_bound=0.0,
        direction={"coefficient": +1},
        fields={"global_correct_toks": Field("count", "")},
        options={"coefficient": Option(values=(0.0, 0.1, 1.0))},
    )
    coefficient = Setting(1.0, least=0.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        require_shape("rewards", batch["rewards"], (m.shape[0],), "one per row")
        correct = correct_tokens(m, batch["rewards"].detach())
        return self.coefficient * mean_of_terms(-lp, correct, global_count(batch, "global_correct_toks"))
