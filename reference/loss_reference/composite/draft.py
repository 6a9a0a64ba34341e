"""A draft model trained beside the policy it is to draft for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.composite.combine import Weight, combine, split_result
from loss_reference.composite.parts import create_part, result_of_part
from loss_reference.composite.promises import contract_of, promises_of_sum, refined
from loss_reference.contract import Contract, Field, Option
from loss_reference.distillation.divergence import DISTILLATION, TEMPERATURE
from loss_reference.distillation.soft_ce import soft_ce
from loss_reference.interface import Batch, LossFunction, LossResult, Outputs
from loss_reference.reduction import global_count, keep_active, mean_of_terms, token_weights
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import Setting
from loss_reference.shapes import require_shape

__all__ = ["DraftLoss", "draft"]


def draft(z_p: Tensor, z_q: Tensor, temperature: float = 1.0) -> Tensor:
    """Return -sum_v p_v log q_v, one term per token, p = softmax(sg(z_p) / temperature), q = softmax(z_q / temperature).

    Args:
        z_p: logits of the policy [..., V], held constant.
        z_q: logits of the draft model [..., V] for the same tokens.
        temperature: of both, above 0.
    """
    log_p, log_q = ((z / temperature).log_softmax(dim=-1) for z in (z_p.detach(), z_q))
    return soft_ce(log_p, log_q)


@register("draft")
class DraftLoss(LossFunction):
    """Draft: L = L_policy + w sum m (-sum_v p log q) / T_g, p the policy itself, held constant, and q the draft model.

    Reads what the policy's loss reads; its ``logits`` [B, S, V] and the draft model's ``draft_logits`` [B, S, V], both of the
    model outputs, and ``token_mask`` [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``. In nats; the second part is
    at least the entropy of the policy, reached at q = p. The policy receives the gradient of its own loss alone, the draft
    model that of the soft cross entropy, w m (q - p) / (temperature T_g) per logit: neither pulls at the other. With w = 0
    the draft model is not looked at. A policy's loss that returns (loss, metrics) makes this one return both, as
    ``"policy/metric"``.

    Config: ``policy``, the config of its loss (``{"type": "nll"}``); ``draft_weight`` w (1, at least 0); ``temperature`` (1,
    above 0) of p and q; ``ahead`` (0: position t of both speaks of the same token; n: the draft model at t is compared with
    the policy at t + n, weighed by the mask of the token predicted there; NeMo RL has 1).

    Raises:
        ConfigError: a policy's loss that is no config with a type, a setting out of range or unknown.
        ValueError: shapes that do not belong together, and whatever the policy's loss raises.

    Source: NeMo RL ``DraftLossWrapper`` and ``DraftCrossEntropyLossFn``.
    """

    contract = Contract(
        family="composite",
        surrogate_gradient=True,
        fields={"draft_logits": Field("logits", "B S V", trainable=True, speaks_of="next")},
        options={
            "draft_weight": Option(values=(0.0, 0.5, 1.0)),
            "temperature": TEMPERATURE,
            "ahead": Option(values=(0, 1)),
        },
    )
    policy: Setting[Mapping[str, Any]] = Setting({"type": "nll"}, check=False)
    draft_weight = Setting(1.0, least=0.0)
    temperature = Setting(1.0, above=0.0, read_when=unless("draft_weight", 0))
    ahead = Setting(0, least=0, read_when=unless("draft_weight", 0))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.policy_loss = create_part(type(self).__name__, "policy", self.policy)
        policy = contract_of(self.policy_loss)
        facts = promises_of_sum([(1.0, policy), (self.draft_weight, DISTILLATION)])
        own = {name: {**facts.get(name, {}), **getattr(type(self).contract, name)} for name in ("fields", "options")}
        facts.pop("direction", None)
        if self.ahead > 0:
            facts["length_normalized"] = False  # the last tokens of a row have no term
            own["fields"] = {
                **own["fields"],
                "draft_logits": Field("logits", "B S V", trainable=True, speaks_of="later"),
            }
        self.contract = refined(type(self).contract, **{**facts, **own})

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        return combine(self._parts(batch, model_outputs))

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        """Return ``{"policy": L_policy, "draft": w times the soft cross entropy}``; without ``"draft"`` when w = 0."""
        return {name: w * split_result(name, result)[0] for name, w, result in self._parts(batch, model_outputs)}

    def soft_cross_entropy(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        """Return sum m (-sum_v p log q) / T_g, a 0-dim tensor; only ``draft_logits`` receive gradient."""
        logits, drafted, n = model_outputs["logits"], model_outputs["draft_logits"], self.ahead
        require_shape("logits", logits, (*batch["token_mask"].shape, "V"), "V scores per entry of token_mask")
        require_shape("draft_logits", drafted, tuple(logits.shape), "that of logits")
        m = token_weights(batch, drafted[:, :-1, 0])
        T_g = global_count(batch, "global_valid_toks")
        T_g = m.sum() if T_g is None else T_g
        m = m[:, n:]
        z_q = keep_active(drafted[:, : m.shape[1]], m)
        z_p = keep_active(logits.detach()[:, n:-1], m).to(z_q)
        return mean_of_terms(draft(z_p, z_q, self.temperature), m, T_g)

    def _parts(self, batch: Batch, model_outputs: Outputs) -> list[tuple[str, Weight, LossResult]]:
        policy = result_of_part(self.policy_loss, batch, model_outputs)
        if self.draft_weight == 0:
            return [("policy", 1.0, policy)]
        return [("policy", 1.0, policy), ("draft", self.draft_weight, self.soft_cross_entropy(batch, model_outputs))]
