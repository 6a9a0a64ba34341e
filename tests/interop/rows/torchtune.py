"""torchtune: preference losses of log-probabilities, PPO and distillation losses of tensors."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction, registry
from tests.interop.comparison import Row, as_given
from tests.interop.inputs import Draw, Inputs, next_logprobs, sequences

Tune = partial(Row, library="torchtune", inputs=sequences)
BETA = 0.3
GUARD = 1e-8
"""What torchtune adds to the count of tokens it divides by."""


def of_pairs(inputs: Inputs, name: str, **settings: Any) -> Tensor:
    lp = (next_logprobs(inputs.logits, inputs.input_ids) * inputs.m).sum(dim=1)
    lp_ref = (inputs.reference_policy_logprobs[:, 1:] * inputs.m).sum(dim=1)
    module = getattr(import_module("torchtune.rlhf.loss"), name)(**settings)
    return module(lp[0::2], lp[1::2], lp_ref[0::2], lp_ref[1::2])[0].mean()


def with_critic(dtype: torch.dtype, seed: int) -> Inputs:
    """Return the inputs of a policy beside those of its critic."""
    inputs, draw = sequences(dtype, seed), Draw(dtype, 100 + seed)
    v = draw.normal(*inputs.input_ids.shape).requires_grad_()
    inputs.leaves["predicted"] = inputs.outputs["values"] = v
    inputs.batch["values"] = v.detach() + draw.normal(*v.shape, scale=0.4)
    inputs.batch["returns"] = draw.normal(*v.shape)
    return inputs


def ppo(inputs: Inputs, value_coeff: float) -> Tensor:
    module = import_module("torchtune.rlhf.loss").PPOLoss(epsilon=0.15, value_clip_range=0.3, value_coeff=value_coeff)
    lp, m = next_logprobs(inputs.logits, inputs.input_ids), inputs.m
    return module(
        inputs.prev_logprobs[:, 1:],
        lp,
        inputs.advantages[:, 1:],
        inputs.batch["values"][:, 1:],
        inputs.predicted[:, 1:],
        inputs.returns[:, 1:],
        padding_masks=m,
        value_padding_masks=m,
    )[0]


def value_part(inputs: Inputs) -> Tensor:
    return ppo(inputs, value_coeff=1.0) - ppo(inputs, value_coeff=0.0)


def with_value_loss(loss: LossFunction, inputs: Inputs) -> Tensor:
    value = registry.create("value_clipped", {"value_clip": 0.3})
    return loss(inputs.batch, inputs.outputs) + 0.5 * value(inputs.batch, inputs.outputs)


def distilled(inputs: Inputs, name: str, **settings: Any) -> Tensor:
    labels = torch.where(inputs.m != 0, inputs.input_ids[:, 1:], -100)
    student, teacher = inputs.logits[:, :-1], inputs.teacher_logits[:, :-1]
    module = getattr(import_module("torchtune.modules.loss"), name)(**settings)
    if "Chunked" in name:
        n = module.num_output_chunks
        return module(list(student.chunk(n, dim=1)), list(teacher.chunk(n, dim=1)), labels)
    return module(student.flatten(0, 1), teacher.flatten(0, 1), labels.flatten())


def chunked_cross_entropy(inputs: Inputs) -> Tensor:
    labels = torch.where(inputs.m != 0, inputs.input_ids[:, 1:], -100)
    module = import_module("torchtune.modules.loss").CEWithChunkedOutputLoss(num_output_chunks=2)
    return module(list(inputs.logits[:, :-1].chunk(2, dim=1)), labels)


def plus_entropy(share: float, loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ours plus ``share`` of the entropy of the teacher, a constant."""
    log_p = inputs.teacher_logits[:, :-1].log_softmax(dim=-1)
    entropy = (-(log_p.exp() * log_p).sum(dim=-1) * inputs.m).sum() / inputs.m.sum()
    return as_given(loss, inputs) + share * entropy


FLOAT32 = torch.float32
ENTROPY = "is the cross entropy, the KL plus the entropy of the teacher"

ROWS = (
    Tune(
        "actor_critic_total",
        counterpart="PPOLoss(value_coeff=0.5)",
        inputs=with_critic,
        theirs=partial(ppo, value_coeff=0.5),
        config={
            "policy": {"type": "ppo_clip", "ratio_clip_min": 0.15, "ratio_clip_max": 0.15},
            "value": {"type": "value_clipped", "value_clip": 0.3},
        },
        slack=GUARD,
    ),
    Tune("soft_ce", counterpart="ForwardKLLoss", theirs=partial(distilled, name="ForwardKLLoss"), dtype=FLOAT32),
    Tune("dpo", counterpart="DPOLoss", theirs=partial(of_pairs, name="DPOLoss", beta=BETA), config={"beta": BETA}),
    Tune(
        "cdpo",
        counterpart="DPOLoss(label_smoothing=0.2)",
        theirs=partial(of_pairs, name="DPOLoss", beta=BETA, label_smoothing=0.2),
        config={"beta": BETA, "label_smoothing": 0.2},
    ),
    Tune(
        "hinge_dpo",
        counterpart="RSOLoss",
        theirs=partial(of_pairs, name="RSOLoss", gamma=BETA),
        config={"beta": BETA},
        note="beta is `gamma` there",
    ),
    Tune(
        "ppo_clip",
        counterpart="PPOLoss(value_coeff=0)",
        inputs=with_critic,
        theirs=partial(ppo, value_coeff=0.0),
        config={"ratio_clip_min": 0.15, "ratio_clip_max": 0.15},
        slack=GUARD,
    ),
    Tune(
        "value_clipped",
        counterpart="PPOLoss, its value term",
        inputs=with_critic,
        theirs=value_part,
        config={"value_clip": 0.3},
        slack=GUARD,
    ),
    Tune(
        "ppo_clip",
        counterpart="PPOLoss(value_coeff=0.5)",
        inputs=with_critic,
        theirs=partial(ppo, value_coeff=0.5),
        config={"ratio_clip_min": 0.15, "ratio_clip_max": 0.15},
        difference="adds the loss of the critic: ours plus value_coeff times `value_clipped`",
        ours=with_value_loss,
        slack=GUARD,
    ),
    Tune("nll", counterpart="CEWithChunkedOutputLoss", theirs=chunked_cross_entropy, dtype=FLOAT32),
    Tune("reverse_kl", counterpart="ReverseKLLoss", theirs=partial(distilled, name="ReverseKLLoss"), dtype=FLOAT32),
    Tune(
        "reverse_kl",
        counterpart="ReverseKLWithChunkedOutputLoss",
        theirs=partial(distilled, name="ReverseKLWithChunkedOutputLoss", num_output_chunks=2),
        dtype=FLOAT32,
    ),
    Tune(
        "forward_kl",
        counterpart="ForwardKLLoss",
        theirs=partial(distilled, name="ForwardKLLoss"),
        difference=ENTROPY,
        note="the gradient is the same",
        ours=partial(plus_entropy, 1.0),
        dtype=FLOAT32,
    ),
    Tune(
        "forward_kl",
        counterpart="ForwardKLWithChunkedOutputLoss",
        theirs=partial(distilled, name="ForwardKLWithChunkedOutputLoss", num_output_chunks=2),
        difference=ENTROPY,
        ours=partial(plus_entropy, 1.0),
        dtype=FLOAT32,
    ),
    Tune(
        "mixed_kl",
        counterpart="SymmetricKLLoss(sym_kd_ratio=0.3)",
        theirs=partial(distilled, name="SymmetricKLLoss", sym_kd_ratio=0.3),
        config={"mixed_kl_weight": 0.3},
        option={"forward_part": "cross_entropy"},
        dtype=FLOAT32,
    ),
)
