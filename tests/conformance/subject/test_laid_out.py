"""Losses called with arguments, compared with the reference of the same name: the same numbers laid out as a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loss_conformance import check_loss
from loss_conformance.subject.subject import TargetError
from loss_conformance.verdict import Status
from loss_reference import Contract


def dpo(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):  # type: ignore[no-untyped-def]
    delta = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    return -F.logsigmoid(beta * delta)


def ipo(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1, half=2):  # type: ignore[no-untyped-def]
    delta = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    return ((delta - 1 / (half * beta)) ** 2).mean()


def dpo_of_tokens(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, chosen_mask, rejected_mask, beta=0.1
):  # type: ignore[no-untyped-def]
    sides = ((chosen_logps, ref_chosen_logps, chosen_mask), (rejected_logps, ref_rejected_logps, rejected_mask))
    h_w, h_l = (torch.where(m != 0, lp - ref.detach(), 0.0).sum(-1) for lp, ref, m in sides)
    return -F.logsigmoid(beta * (h_w - h_l)).mean()


def cpo_of_scores(chosen_logits, rejected_logits, chosen_labels, rejected_labels, beta=0.1):  # type: ignore[no-untyped-def]
    sums = []
    for logits, labels in ((chosen_logits, chosen_labels), (rejected_logits, rejected_labels)):
        y = labels[:, 1:]
        lp = logits[:, :-1].log_softmax(-1).gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        sums.append(torch.where(y != -100, lp, 0.0).sum(-1))
    nll = -sums[0] / (chosen_labels[:, 1:] != -100).sum(-1).clamp(min=1)
    return (-F.logsigmoid(beta * (sums[0] - sums[1])) + nll).mean()


def reward_margin(chosen_rewards: Tensor, rejected_rewards: Tensor, margin: Tensor) -> Tensor:
    return -F.logsigmoid(chosen_rewards - rejected_rewards - margin).mean()


def kl_k3(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
    d = torch.where(mask != 0, ref_log_probs.detach() - log_probs, 0.0)
    return ((d.exp() - 1 - d) * mask).sum() / mask.sum().clamp(min=1)


def gspo(log_probs, old_log_probs, advantages, response_mask, clip_range=0.1):  # type: ignore[no-untyped-def]
    kept = response_mask != 0
    s = (torch.where(kept, log_probs - old_log_probs, 0.0).sum(-1) / kept.sum(-1).clamp(min=1)).exp()
    terms = torch.maximum(-advantages * s, -advantages * s.clamp(1 - clip_range, 1 + clip_range))
    rows = kept.any(-1).to(terms.dtype)
    return (terms * rows).sum() / rows.sum().clamp(min=1)


def value_clipped(values, returns, old_values, mask, cliprange_value=0.3):  # type: ignore[no-untyped-def]
    v, R, v_old = (torch.where(mask != 0, x, 0.0) for x in (values, returns, old_values))
    near = v_old + (v - v_old).clamp(-cliprange_value, cliprange_value)
    return (torch.maximum((v - R) ** 2, (near - R) ** 2) / 2 * mask).sum() / mask.sum().clamp(min=1)


def forward_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    log_p = teacher_logits.detach().log_softmax(-1)
    return (log_p.exp() * (log_p - student_logits.log_softmax(-1))).sum(-1).mean()


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    lp = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    return (-((1 - lp.exp()) ** gamma) * lp).mean()


def segmentation(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / (labels != -100).sum().clamp(min=1)


def next_token(logits: Tensor, labels: Tensor) -> Tensor:
    y = labels[:, 1:]
    terms = F.cross_entropy(logits[:, :-1].flatten(0, 1), y.flatten(), ignore_index=-100, reduction="sum")
    return terms / (y != -100).sum().clamp(min=1)


def nll_of_rows(log_probs: Tensor, target: Tensor) -> Tensor:
    return F.nll_loss(log_probs, target)


def mse(values: Tensor, returns: Tensor) -> Tensor:
    return ((values - returns) ** 2).mean() / 2


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0) -> Tensor:
    return F.relu((anchor - positive).norm(dim=-1) - (anchor - negative).norm(dim=-1) + margin).mean()


def ntxent(z1: Tensor, z2: Tensor, temperature: float = 0.07) -> Tensor:
    z = F.normalize(torch.cat([z1, z2]), dim=-1)
    s = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), float("-inf"))
    return F.cross_entropy(s, (torch.arange(len(z), device=z.device) + len(z1)) % len(z))


def siglip(image_features: Tensor, text_features: Tensor) -> Tensor:
    z = 10 * F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T - 10
    return -F.logsigmoid(z * (2 * torch.eye(len(z), dtype=z.dtype, device=z.device) - 1)).sum() / len(z)


def supcon(features: Tensor, labels: Tensor) -> Tensor:
    z = F.normalize(features, dim=-1)
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    same = (labels[:, None] == labels) & others
    log_prob = z @ z.T / 0.1 - torch.where(others, z @ z.T / 0.1, float("-inf")).logsumexp(1, keepdim=True)
    terms = -torch.where(same, log_prob, 0.0).sum(1) / same.sum(1).clamp(min=1)
    anchors = same.any(1)
    return torch.where(anchors, terms, 0.0).sum() / anchors.sum().clamp(min=1)


SAME: list[tuple[Callable[..., Any], str]] = [
    (dpo, "dpo"),
    (ipo, "ipo"),
    (dpo_of_tokens, "dpo"),
    (cpo_of_scores, "cpo"),
    (reward_margin, "bt_margin"),
    (kl_k3, "kl_k3"),
    (gspo, "gspo"),
    (value_clipped, "value_clipped"),
    (forward_kl, "forward_kl"),
    (focal, "focal_ce"),
    (segmentation, "nll"),
    (next_token, "nll"),
    (mse, "value_mse"),
    (triplet, "triplet_margin"),
    (ntxent, "ntxent"),
    (siglip, "siglip"),
    (supcon, "supcon"),
]
"""Losses as people write them, and the reference each of them is."""


def compared(loss: Callable[..., Any], baseline: str) -> dict[str, Status]:
    report = check_loss(loss, contract=Contract(baseline=baseline), checks=["baseline"], seed=0, device="cpu")
    statuses = {verdict.check: verdict.status for verdict in report.verdicts}
    assert statuses.get("baseline_settings") not in (Status.FAILED, Status.ADVICE)
    return {check: status for check, status in statuses.items() if check in ("baseline_value", "baseline_gradient")}


@pytest.mark.parametrize(("loss", "baseline"), SAME, ids=lambda x: getattr(x, "__name__", x))
def test_a_right_loss_of_arguments_is_its_reference(loss: Callable[..., Any], baseline: str) -> None:
    assert compared(loss, baseline) == {"baseline_value": Status.PASSED, "baseline_gradient": Status.PASSED}


@pytest.mark.parametrize(("loss", "baseline"), SAME, ids=lambda x: getattr(x, "__name__", x))
def test_one_percent_is_seen(loss: Callable[..., Any], baseline: str) -> None:
    @wraps(loss)
    def larger(*given: Any, **named: Any) -> Any:
        return loss(*given, **named) * 1.01

    assert compared(larger, baseline)["baseline_value"] is Status.FAILED


def test_a_live_old_policy_is_seen_in_the_gradient_alone() -> None:
    def cispo(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, response_mask: Tensor) -> Tensor:
        ratio = torch.where(response_mask != 0, log_probs - old_log_probs, 0.0).exp()
        kept = torch.where(response_mask != 0, log_probs, 0.0)
        weight = ratio.clamp(0.8, 1.2)
        return -(weight * advantages[:, None] * kept * response_mask).sum() / response_mask.sum().clamp(min=1)

    assert compared(cispo, "cispo") == {"baseline_value": Status.PASSED, "baseline_gradient": Status.FAILED}


def test_of_distributions_the_value_alone_is_compared() -> None:
    assert compared(nll_of_rows, "nll") == {
        "baseline_value": Status.PASSED,
        "baseline_gradient": Status.NOT_APPLICABLE,
    }


def test_an_argument_no_batch_holds_is_not_compared() -> None:
    def clip(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
        z = logit_scale * F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T
        y = torch.arange(len(z), device=z.device)
        return (F.cross_entropy(z, y) + F.cross_entropy(z.T, y)) / 2

    assert compared(clip, "clip_symmetric")["baseline_value"] is Status.NOT_APPLICABLE


def test_a_baseline_nobody_registered_is_refused_by_name() -> None:
    with pytest.raises(TargetError, match=r"baseline='dpoo'.*did you mean 'dpo'"):
        check_loss(partial(dpo, beta=0.2), contract=Contract(baseline="dpoo"))
