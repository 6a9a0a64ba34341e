"""The measured losses as they are usually written, as this project writes them, and as other packages do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference import create_loss_function

Step = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
FORMULATIONS: dict[tuple[str, str], Step] = {}


def formulation(loss: str, name: str) -> Callable[[Step], Step]:
    def decorator(step: Step) -> Step:
        FORMULATIONS[loss, name] = step
        return step

    return decorator


def reference(loss: str, **config: Any) -> Step:
    function = create_loss_function({"type": loss, **config})

    def step(batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Tensor:
        value = function.compute_loss(batch, outputs)
        assert isinstance(value, Tensor)
        return value

    return step


for measured in ("nll", "dpo", "grpo", "forward_kl"):
    FORMULATIONS[measured, "reference"] = reference(measured)


def logprobs(batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-softmax, then gather: [B, S-1] log-probabilities and their mask."""
    log_pi = outputs["logits"][:, :-1].float().log_softmax(dim=-1)
    return log_pi.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1), batch["token_mask"][:, 1:]


@formulation("nll", "plain")
def plain_nll(batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Tensor:
    lp, m = logprobs(batch, outputs)
    return -(lp * m).sum() / m.sum()


@formulation("dpo", "plain")
def plain_dpo(batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Tensor:
    return dpo_of_logprobs(*logprobs(batch, outputs), batch)


def dpo_of_logprobs(lp: Tensor, m: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    h = ((lp - batch["reference_policy_logprobs"][:, 1:]) * m).sum(dim=1)
    return -F.logsigmoid(0.1 * (h[0::2] - h[1::2])).mean()


@formulation("grpo", "plain")
def plain_grpo(batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Tensor:
    return grpo_of_logprobs(*logprobs(batch, outputs), batch)


def grpo_of_logprobs(lp: Tensor, m: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    rho, A = (lp - batch["prev_logprobs"][:, 1:]).exp(), batch["advantages"][:, 1:]
    d = lp - batch["reference_policy_logprobs"][:, 1:]
    terms = torch.maximum(-A * rho, -A * rho.clamp(0.8, 1.2)) + 0.04 * ((-d).exp() - 1 + d)
    return ((terms * m).sum(dim=1) / m.sum(dim=1)).mean()


@formulation("forward_kl", "plain")
def plain_forward_kl(batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Tensor:
    log_q = outputs["logits"][:, :-1].float().log_softmax(dim=-1)
    log_p = batch["teacher_logits"][:, :-1].float().log_softmax(dim=-1)
    m = batch["token_mask"][:, 1:]
    return (F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1) * m).sum() / m.sum()


def labels(batch: Mapping[str, Tensor]) -> Tensor:
    """[B, S-1] next tokens, -100 where they are not trained on."""
    return torch.where(batch["token_mask"] != 0, batch["input_ids"], -100)[:, 1:]


@formulation("nll", "torch")
def torch_nll(batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Tensor:
    logits = outputs["logits"][:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), labels(batch).flatten(), ignore_index=-100)


@formulation("nll", "torchtune")
def torchtune_nll(batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Tensor:
    from torchtune.modules.loss import CEWithChunkedOutputLoss

    function = CEWithChunkedOutputLoss()
    loss: Tensor = function(list(outputs["logits"][:, :-1].chunk(function.num_output_chunks, dim=1)), labels(batch))
    return loss


def logprobs_of_trl(batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """[B, S-1] log-probabilities as TRL's trainers compute them, and their mask."""
    from trl.trainer.utils import selective_log_softmax

    lp: Tensor = selective_log_softmax(outputs["logits"][:, :-1], batch["input_ids"][:, 1:])
    return lp, batch["token_mask"][:, 1:]


@formulation("dpo", "trl")
def trl_dpo(batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Tensor:
    return dpo_of_logprobs(*logprobs_of_trl(batch, outputs), batch)


@formulation("grpo", "trl")
def trl_grpo(batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Tensor:
    return grpo_of_logprobs(*logprobs_of_trl(batch, outputs), batch)


@formulation("forward_kl", "torchtune")
def torchtune_forward_kl(batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Tensor:
    from torchtune.modules.loss import ForwardKLWithChunkedOutputLoss

    function = ForwardKLWithChunkedOutputLoss()
    student, teacher = (
        list(x[:, :-1].chunk(function.num_output_chunks, dim=1)) for x in (outputs["logits"], batch["teacher_logits"])
    )
    loss: Tensor = function(student, teacher, labels(batch))
    return loss
