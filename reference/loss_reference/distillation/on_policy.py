"""On-policy distillation: the teacher scores the very tokens the student has sampled."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from loss_reference.contract import Contract, Field, Option
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.logprobs import token_constant, trained_logprobs
from loss_reference.reduction import global_count, mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["SAMPLED", "IWOPDLoss", "OPDSampledLoss", "early_disagreement_weight", "iw_opd", "opd_sampled"]

SMALLEST_DISAGREEMENT: Final = 1e-8
SAMPLED: Final = Contract(
    family="distillation",
    level="token",
    normalizer="global",
    length_normalized=True,
    lower_bound=float("-inf"),
    upper_bound=float("inf"),
    surrogate_gradient=True,
    fields={"teacher_logprobs": Field("logprobs", "B S")},
)


def opd_sampled(lp: Tensor, lp_teacher: Tensor) -> Tensor:
    """Return -sg(lp_T - lp) lp per token: REINFORCE with the log-ratio of the teacher as the advantage."""
    return -(lp_teacher - lp).detach() * lp


def early_disagreement_weight(A: Tensor, gamma: float) -> Tensor:
    """Return w_t = 1 + gamma (1 - sum_{s<t} |A_s| / sum_s |A_s|) [B, S-1], between 1 and 1 + gamma.

    Args:
        A: advantages [B, S-1], 0 on tokens that are not trained on; the divisor is at least 1e-8.
        gamma: how much more the first disagreement of a row weighs than the last, in [0, 1].
    """
    disagreement = A.abs()
    before = disagreement.cumsum(dim=1) - disagreement
    return 1 + gamma * (1 - before / disagreement.sum(dim=1, keepdim=True).clamp(min=SMALLEST_DISAGREEMENT))


def iw_opd(lp: Tensor, A: Tensor, gamma: float = 0.5) -> Tensor:
    """Return -w_t A_t lp_t, one term per token, w of ``early_disagreement_weight``.

    Args:
        lp: log-probabilities [B, S-1] of the tokens under the student, in nats.
        A, gamma: as in ``early_disagreement_weight``; both constant.
    """
    return -early_disagreement_weight(A, gamma) * A * lp


@register("opd_sampled")
class OPDSampledLoss(LossFunction):
    """On-policy distillation on sampled tokens: L = sum m (-sg(lp_T - lp) lp) / T_g.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``teacher_logprobs`` [B, S],
    the teacher's log-probability of each token of ``input_ids``, and ``token_mask`` [B, S]; optional ``sample_mask`` [B],
    ``global_valid_toks``. In squared nats, of either sign: the value says nothing about how close the student is. Only the
    student receives gradient: dl/dlp = lp - lp_T, whose expectation over the student's own samples is that of
    KL(student || teacher); 0 where both agree.

    Config: none.

    Raises:
        KeyError: no ``teacher_logprobs``.
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: an unknown setting.

    Source: arXiv 2601.02780; NeMo RL's multi-teacher on-policy distillation takes lp_old in place of lp inside sg.
    """

    contract = SAMPLED
    strict_config = True

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        terms = opd_sampled(lp, token_constant(batch, "teacher_logprobs", m))
        return mean_of_terms(terms, m, global_count(batch, "global_valid_toks"))


@register("iw_opd")
class IWOPDLoss(LossFunction):
    """Importance-weighted on-policy distillation: l_t = -w_t A_t lp_t, A = lp_T - lp_rollout, early tokens weighing more.

    w_t = 1 + g (1 - sum_{s<t} |A_s| / max(sum_s |A_s|, 1e-8)), the sums over the trained tokens of the row: from 1 + g at
    the first of them down to 1, as the disagreement with the teacher is used up. Reads what ``OPDSampledLoss`` reads;
    optional ``generation_logprobs`` [B, S], the log-probabilities at rollout, in place of which the student's own are
    taken. ``sample_mask`` weights the row and does not enter w. Any real result. Only the student receives gradient:
    dl/dlp = -w A, with A and w constant. With g = 0 and no ``generation_logprobs`` it is ``OPDSampledLoss``.

    Config: ``gamma`` g (0.5, in [0, 1]).

    Raises:
        KeyError: no ``teacher_logprobs``.
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2606.22600.
    """

    contract = refine(SAMPLED, length_normalized=False, options={"gamma": Option(values=(0.0, 0.5, 1.0))})
    gamma = Setting(0.5, least=0.0, most=1.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        rollout = lp.detach()
        if batch.get("generation_logprobs") is not None:
            rollout = token_constant(batch, "generation_logprobs", m)
        A = token_constant(batch, "teacher_logprobs", m) - rollout
        return mean_of_terms(iw_opd(lp, A, self.gamma), m, global_count(batch, "global_valid_toks"))
