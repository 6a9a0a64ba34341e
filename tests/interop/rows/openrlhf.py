"""OpenRLHF: its loss modules, loaded without the cluster around them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.inputs import Inputs, near_reference, next_logprobs, scores, sequences, values
from tests.interop.single_modules import load

GUARD = 1e-8
"""What is added to the length of an answer before something is divided by it."""
CLIP = {"ratio_clip_min": 0.15, "ratio_clip_max": 0.25}
SEQUENCES = {"aggregation": "seq_mean_token_mean"}


def openrlhf(module: str = "loss") -> Any:
    return load(f"openrlhf.models.{module}", ("openrlhf", "openrlhf.models"), ("deepspeed",))


def of_tokens(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return lp, its old values, advantages and mask, [B, S-1] each."""
    lp = next_logprobs(inputs.logits, inputs.input_ids)
    return lp, inputs.prev_logprobs[:, 1:], inputs.advantages[:, 1:], inputs.m


def openrlhf_sft(inputs: Inputs, token_level_loss: bool = True) -> Tensor:
    lp, _, _, m = of_tokens(inputs)
    return openrlhf().SFTLoss(token_level_loss)(lp, m)


def openrlhf_lm(inputs: Inputs) -> Tensor:
    return openrlhf().GPTLMLoss()(inputs.logits, torch.where(inputs.token_mask != 0, inputs.input_ids, -100))


def openrlhf_policy(inputs: Inputs, **settings: Any) -> Tensor:
    return openrlhf().PolicyLoss(clip_eps_low=0.15, clip_eps_high=0.25, **settings)(*of_tokens(inputs))[0]


def openrlhf_grpo(inputs: Inputs, unbiased_gradient: bool = False) -> Tensor:
    lp, _, _, m = of_tokens(inputs)
    lp_ref = inputs.reference_policy_logprobs[:, 1:]
    utils = openrlhf("utils")
    k = utils.compute_approx_kl(lp, lp_ref, kl_estimator="k2", unbiased_gradient=unbiased_gradient)
    return openrlhf_policy(inputs) + 0.1 * openrlhf().aggregate_loss(k, m)


def openrlhf_corrected(inputs: Inputs, level: str, mode: str, threshold: tuple[float, float]) -> Tensor:
    names = {"level": level, "mode": mode, "threshold": threshold}
    settings = {f"is_correction_{name}": value for name, value in names.items()}
    loss = openrlhf().PolicyLoss(clip_eps_low=0.15, clip_eps_high=0.25, **settings)
    return loss(*of_tokens(inputs), rollout_log_probs=inputs.generation_logprobs[:, 1:])[0]


def openrlhf_kl(inputs: Inputs, estimator: str, unbiased_gradient: bool = False) -> Tensor:
    lp, _, _, m = of_tokens(inputs)
    lp_ref = inputs.reference_policy_logprobs[:, 1:]
    k = openrlhf("utils").compute_approx_kl(lp, lp_ref, kl_estimator=estimator, unbiased_gradient=unbiased_gradient)
    return openrlhf().aggregate_loss(k, m)


def openrlhf_value(inputs: Inputs, clip_eps: float | None) -> Tensor:
    given = (x[:, 1:] for x in (inputs.predicted, inputs.batch["values"], inputs.returns, inputs.token_mask))
    return openrlhf().ValueLoss(clip_eps)(*given)


def openrlhf_dpo(inputs: Inputs, **settings: Any) -> Tensor:
    lp, _, _, m = of_tokens(inputs)
    p, p_ref = (lp * m).sum(dim=1), (inputs.reference_policy_logprobs[:, 1:] * m).sum(dim=1)
    return openrlhf().DPOLoss(beta=0.3, **settings)(p[0::2], p[1::2], p_ref[0::2], p_ref[1::2])[0]


def openrlhf_reward(inputs: Inputs, name: str, margin: bool = False) -> Tensor:
    r = inputs.leaves["rewards"]
    return getattr(openrlhf(), name)()(r[0::2], r[1::2], inputs.margin[0::2] if margin else None)


def without_margin(loss: LossFunction, inputs: Inputs) -> Tensor:
    return loss({**inputs.batch, "margin": torch.zeros_like(inputs.margin)}, inputs.outputs)


Open = partial(Row, library="openrlhf", inputs=sequences)
FLOAT32 = torch.float32

ROWS = (
    Open("nll", counterpart="SFTLoss()", theirs=openrlhf_sft),
    Open(
        "nll",
        counterpart="SFTLoss(token_level_loss=False)",
        theirs=partial(openrlhf_sft, token_level_loss=False),
        option=SEQUENCES,
        slack=GUARD,
    ),
    Open("nll", counterpart="GPTLMLoss()", theirs=openrlhf_lm),
    Open("ppo_clip", counterpart="PolicyLoss()", theirs=openrlhf_policy, config=CLIP),
    Open(
        "ppo_clip",
        counterpart="PolicyLoss(token_level_loss=False)",
        theirs=partial(openrlhf_policy, token_level_loss=False),
        config=CLIP,
        option=SEQUENCES,
        slack=GUARD,
    ),
    Open(
        "ppo_dual_clip",
        counterpart="PolicyLoss(dual_clip=1.3)",
        theirs=partial(openrlhf_policy, dual_clip=1.3),
        config={**CLIP, "ratio_clip_c": 1.3},
    ),
    Open(
        "gspo",
        counterpart='PolicyLoss(policy_loss_type="gspo")',
        theirs=partial(openrlhf_policy, policy_loss_type="gspo"),
        config=CLIP,
        slack=GUARD,
    ),
    *(
        Open(
            "grpo",
            counterpart=f'PolicyLoss() and compute_approx_kl "k2"{shown}',
            inputs=near_reference,
            theirs=partial(openrlhf_grpo, unbiased_gradient=bool(shown)),
            config={**CLIP, "aggregation": "token_mean", "reference_policy_kl_penalty": 0.1, "kl_type": "k2"},
            note="the estimator is clamped at 10",
            dtype=FLOAT32,
        )
        for shown in ("", ", unbiased_gradient=True")
    ),
    *(
        Open(
            loss,
            counterpart=f'PolicyLoss(is_correction_level="{level}", is_correction_mode="{mode}")',
            theirs=partial(openrlhf_corrected, level=level, mode=mode, threshold=bounds),
            config={**CLIP, "is_min": bounds[0], "is_max": bounds[1]},
        )
        for loss, level, mode, bounds in (
            ("tis", "token", "clip", (0.8, 1.2)),
            ("icepop", "token", "mask", (0.8, 1.2)),
            ("seq_mask_tis", "seq", "mask", (0.9, 1.1)),
        )
    ),
    *(
        Open(
            f"kl_{estimator}",
            counterpart=f'compute_approx_kl "{estimator}"{shown}',
            inputs=near_reference,
            theirs=partial(openrlhf_kl, estimator=estimator, unbiased_gradient=bool(shown)),
            option={"kl_gradient": "straight_through_k2"} if shown else {},
            note="the estimator is clamped at 10",
            dtype=FLOAT32,
        )
        for estimator, shown in (("k1", ""), ("k2", ""), ("k3", ""), ("k3", ", unbiased_gradient=True"))
    ),
    Row("value_mse", "openrlhf", "ValueLoss()", values, partial(openrlhf_value, clip_eps=None)),
    Row(
        "value_clipped",
        "openrlhf",
        "ValueLoss(clip_eps=0.3)",
        values,
        partial(openrlhf_value, clip_eps=0.3),
        config={"value_clip": 0.3},
    ),
    Open("dpo", counterpart="DPOLoss", theirs=openrlhf_dpo, config={"beta": 0.3}),
    Open(
        "cdpo",
        counterpart="DPOLoss(label_smoothing=0.2)",
        theirs=partial(openrlhf_dpo, label_smoothing=0.2),
        config={"beta": 0.3, "label_smoothing": 0.2},
    ),
    Open("ipo", counterpart="DPOLoss(ipo=True)", theirs=partial(openrlhf_dpo, ipo=True), config={"beta": 0.3}),
    Row("bradley_terry", "openrlhf", "PairWiseLoss", scores, partial(openrlhf_reward, name="PairWiseLoss")),
    Row(
        "bt_margin",
        "openrlhf",
        "PairWiseLoss, margin",
        scores,
        partial(openrlhf_reward, name="PairWiseLoss", margin=True),
    ),
    Row("logexp_pairwise", "openrlhf", "LogExpLoss", scores, partial(openrlhf_reward, name="LogExpLoss")),
    Row(
        "bt_margin",
        "openrlhf",
        "LogExpLoss, margin",
        scores,
        partial(openrlhf_reward, name="LogExpLoss", margin=True),
        difference="the margin is not read: ours of margins 0",
        ours=without_margin,
    ),
)
