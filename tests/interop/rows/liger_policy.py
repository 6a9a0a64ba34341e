"""Liger-Kernel: chunked policy-gradient and distillation losses, with an identity for the head."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.interop.comparison import Row
from tests.interop.inputs import PROMPT, Inputs, sequences
from tests.interop.rows.liger_preference import Liger, identity, labels, module

CLIP = {"ratio_clip_min": 0.15, "ratio_clip_max": 0.25}
LONGEST = 12


def policy(inputs: Inputs, loss_type: str, beta: float = 0.0, old: bool = True, **settings: Any) -> Tensor:
    defaults: dict[str, Any] = {"epsilon_low": 0.15, "epsilon_high": 0.25, "max_completion_length": LONGEST}
    loss = module("GRPO", loss_type=loss_type, beta=beta, use_ref_model=beta > 0, **{**defaults, **settings})
    return loss(
        inputs.logits[:, PROMPT - 1 : -1],
        identity(inputs),
        inputs.input_ids[:, PROMPT:],
        inputs.token_mask[:, PROMPT:],
        inputs.row_advantages,
        ref_per_token_logps=inputs.reference_policy_logprobs[:, PROMPT:],
        old_per_token_logps=inputs.prev_logprobs[:, PROMPT:] if old else None,
    )[0]


def of_advantages_zero(inputs: Inputs, **settings: Any) -> Tensor:
    inputs.given.row_advantages = torch.zeros_like(inputs.row_advantages)
    return policy(inputs, "dapo", beta=1.0, **settings)


def from_the_prompt(dtype: torch.dtype, seed: int) -> Inputs:
    """Return ``sequences`` whose answers all begin at the same token, so that what follows is the answer or its padding."""
    inputs = sequences(dtype, seed)
    inputs.token_mask[:, PROMPT] = 1
    return inputs


def distilled(inputs: Inputs, name: str, **settings: Any) -> Tensor:
    head = identity(inputs)
    student, teacher = inputs.logits[:, :-1].flatten(0, 1), inputs.teacher_logits[:, :-1].flatten(0, 1)
    return module(name, **settings)(student, head, teacher, head, labels(inputs).flatten())


def grpo(loss: str, loss_type: str, shown: str = "", **fields: Any) -> Row:
    settings = fields.pop("settings", {})
    counterpart = f'GRPOLoss(loss_type="{loss_type}"' + (f", {shown})" if shown else ")")
    theirs = partial(policy, loss_type=loss_type, **settings)
    return Liger(loss, counterpart=counterpart, theirs=theirs, **{"config": CLIP, **fields})


KL = {**CLIP, "reference_policy_kl_penalty": 0.1}
SEQUENCE = {"importance_sampling_level": "sequence"}

ROWS = (
    grpo("grpo", "grpo", "beta=0.1", settings={"beta": 0.1}, config=KL),
    grpo("grpo", "dapo", "beta=0.1", settings={"beta": 0.1}, config=KL, option={"aggregation": "token_mean"}),
    grpo("ppo_clip", "dapo", "beta=0"),
    grpo("dapo", "dapo", "beta=0"),
    grpo("bnpo", "bnpo", "beta=0"),
    grpo("dr_grpo", "dr_grpo", "beta=0", config={**CLIP, "max_length": float(LONGEST)}),
    grpo("ppo_dual_clip", "dapo", "delta=1.5", settings={"delta": 1.5}, config={**CLIP, "ratio_clip_c": 1.5}),
    grpo("gspo", "grpo", 'importance_sampling_level="sequence"', settings=SEQUENCE),
    grpo("luspo", "luspo", 'importance_sampling_level="sequence"', settings=SEQUENCE),
    grpo(
        "luspo",
        "luspo",
        'importance_sampling_level="sequence", beta=0.1',
        settings={**SEQUENCE, "beta": 0.1},
        inputs=from_the_prompt,
        config=KL,
        option={"padding": "counted"},
        note="prompts of one length",
    ),
    grpo(
        "cispo",
        "cispo",
        config={"ratio_clip_max": 0.25},
        option={"weight_bound": "absolute"},
        note="`epsilon_high` is the bound itself",
    ),
    grpo("sapo", "sapo", config={}),
    grpo("vespo", "vespo", config={}),
    grpo("on_policy", "dapo", "no old log-probabilities", settings={"old": False}, config={}),
    Liger(
        "forward_kl",
        counterpart="JSDLoss(beta=0, weight_hard_loss=0, weight_soft_loss=1)",
        theirs=partial(distilled, name="JSD", beta=0.0, weight_hard_loss=0.0, weight_soft_loss=1.0),
    ),
    Liger(
        "reverse_kl",
        counterpart="JSDLoss(beta=1, weight_hard_loss=0, weight_soft_loss=1)",
        theirs=partial(distilled, name="JSD", beta=1.0, weight_hard_loss=0.0, weight_soft_loss=1.0),
    ),
    Liger(
        "forward_kl",
        counterpart="JSDLoss(beta=0, weight_hard_loss=0, weight_soft_loss=1, temperature=2)",
        theirs=partial(distilled, name="JSD", beta=0.0, weight_hard_loss=0.0, weight_soft_loss=1.0, temperature=2.0),
        config={"temperature": 2.0},
    ),
    Liger("kl_k3", counterpart="GRPOLoss(beta=1), advantages of 0", theirs=of_advantages_zero),
    Liger(
        "kl_unbiased",
        counterpart="GRPOLoss(beta=1, use_bias_correction_kl=True), advantages of 0",
        theirs=partial(of_advantages_zero, use_bias_correction_kl=True),
    ),
    Liger(
        "generalized_jsd",
        counterpart="JSDLoss(beta=0.3, weight_hard_loss=0, weight_soft_loss=1)",
        theirs=partial(distilled, name="JSD", beta=0.3, weight_hard_loss=0.0, weight_soft_loss=1.0),
        config={"beta": 0.3},
    ),
    Liger(
        "hinton_kd",
        counterpart="JSDLoss(beta=0, temperature=2)",
        theirs=partial(distilled, name="JSD", beta=0.0, temperature=2.0),
        config={"alpha": 0.5, "temperature": 2.0},
        option={"scale_soft": False},
    ),
    Liger(
        "cosine_distill",
        counterpart="CosineSimilarityLoss(beta=0.6, weight_hard_loss=0.3, weight_soft_loss=1)",
        theirs=partial(distilled, name="CosineSimilarity", beta=0.6, weight_hard_loss=0.3, weight_soft_loss=1.0),
        config={"beta": 0.6, "hard_weight": 0.3},
    ),
)
