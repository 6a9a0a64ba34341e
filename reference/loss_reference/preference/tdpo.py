"""Token-level DPO: the KL from the reference, summed along each answer, is held down beside the margin."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from loss_reference.contract import Field, Option
from loss_reference.distillation.kl import forward_kl
from loss_reference.interface import Batch, Outputs
from loss_reference.pairs import mean_of_pairs
from loss_reference.preference.dpo import dpo
from loss_reference.preference.full_distribution import next_token_distribution, of_sampled
from loss_reference.preference.layout import PairedLoss
from loss_reference.preference.pairwise import BETA, active_pairs, pair_contract
from loss_reference.reduction import keep_active, row_weights
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.shapes import require_shape

__all__ = ["TDPO1Loss", "TDPO2Loss", "TokenLevelDPOLoss", "tdpo1", "tdpo2"]

LEAST_LOGPROB: Final = -1e6
"""What a token that the policy rules out counts as in the KL: infinite sums of two answers have no difference."""
FIELDS: Final = {"reference_logits": Field("logits", "B S V")}


def tdpo1(delta: Tensor, kl_w: Tensor, kl_l: Tensor, beta: float = 0.1) -> Tensor:
    """Return -log sigma(beta (delta - (kl_l - kl_w))), one term per pair; delta = h_w - h_l, kl sums of KL, all [N]."""
    return dpo(delta - (kl_l - kl_w), beta)


def tdpo2(delta: Tensor, kl_w: Tensor, kl_l: Tensor, beta: float = 0.1, alpha: float = 0.5) -> Tensor:
    """Return -log sigma(beta (delta - alpha (kl_l - sg(kl_w)))), one term per pair, sg(.) the stop-gradient; all [N]."""
    return dpo(delta - alpha * (kl_l - kl_w.detach()), beta)


class TokenLevelDPOLoss(PairedLoss):
    """L = mean over pairs of ``terms(delta, kl_w, kl_l)``: delta = h_w - h_l, kl = sum_t m KL(reference || policy).

    Reads ``logits`` [B, S, V], ``reference_logits`` [B, S, V], both with position t predicting token t+1, ``input_ids``
    [B, S], ``token_mask`` [B, S]; optional ``sample_mask`` [B], ``global_valid_seqs``. Log-probabilities of the reference
    are taken from its logits. In the KL a log-probability of the policy counts as at least -1e6, so that a token it rules
    out makes a large sum, not an infinite one. Only the policy receives gradient.

    Config, of every such loss: ``pair_layout`` as in ``PairLoss``.

    Raises:
        KeyError: no ``logits``, ``reference_logits`` or ``input_ids``.
        ValueError: an odd number of rows, shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.
    """

    def terms(self, delta: Tensor, kl_w: Tensor, kl_l: Tensor) -> Tensor:
        """Return [B/2] terms from differences of log-ratios and sums of divergences [B/2]."""
        raise NotImplementedError(f"{type(self).__name__} must define terms(self, delta, kl_w, kl_l)")

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        log_pi, m = next_token_distribution(batch, model_outputs)
        reference = batch["reference_logits"]
        require_shape("reference_logits", reference, tuple(model_outputs["logits"].shape), "that of logits")
        log_ref = keep_active(reference.detach()[:, :-1], m).to(log_pi.dtype).log_softmax(dim=-1)
        w = row_weights(batch, log_pi)
        h = (of_sampled(log_pi, batch, m) - of_sampled(log_ref, batch, m)).sum(dim=1)
        h_w, h_l = active_pairs(h, w)
        kl_w, kl_l = active_pairs(keep_active(forward_kl(log_ref, log_pi.clamp(min=LEAST_LOGPROB)), m).sum(dim=1), w)
        return mean_of_pairs(self.terms(h_w - h_l, kl_w, kl_l), w, batch)


@register("tdpo1")
class TDPO1Loss(TokenLevelDPOLoss):
    """TDPO1: l = -log sigma(beta (h_w - h_l - (kl_l - kl_w))), kl = sum over trained tokens of KL(reference || policy).

    Inputs and errors as in ``TokenLevelDPOLoss``. At least 0, log 2 at policy = reference. Gradient also through both kl:
    that of the chosen answer is rewarded, that of the rejected one paid for.

    Config: ``beta`` (0.1, above 0).

    Source: arXiv 2404.11999.
    """

    contract = pair_contract(direction={}, facts={"fields": FIELDS}, beta=BETA)
    beta = Setting(0.1, above=0.0)

    def terms(self, delta: Tensor, kl_w: Tensor, kl_l: Tensor) -> Tensor:
        return tdpo1(delta, kl_w, kl_l, self.beta)


@register("tdpo2")
class TDPO2Loss(TokenLevelDPOLoss):
    """TDPO2: l = -log sigma(beta (h_w - h_l - alpha (kl_l - sg(kl_w)))), kl summed over trained tokens, sg the stop-gradient.

    Inputs and errors as in ``TokenLevelDPOLoss``. At least 0, log 2 at policy = reference; ``dpo`` for alpha = 0. Gradient
    through kl_l, not through kl_w, which is a constant.

    Config: ``beta`` (0.1, above 0); ``alpha`` (0.5, at least 0).

    Source: arXiv 2404.11999.
    """

    contract = pair_contract(
        direction={},
        facts={"fields": FIELDS, "surrogate_gradient": True},
        beta=BETA,
        alpha=Option(values=(0.0, 0.5, 1.0)),
    )
    beta = Setting(0.1, above=0.0)
    alpha = Setting(0.5, least=0.0)

    def terms(self, delta: Tensor, kl_w: Tensor, kl_l: Tensor) -> Tensor:
        return tdpo2(delta, kl_w, kl_l, self.beta, self.alpha)
