"""PyTorch itself, on tokens: cross entropies, divergences, squared errors."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.conversions import times
from tests.interop.inputs import Inputs, V, labels, sequences, trained, values

Tokens = partial(Row, library="torch", inputs=sequences)
CLASS_WEIGHTS = torch.linspace(0.5, 2.0, V, dtype=torch.float64)


def next_labels(inputs: Inputs) -> Tensor:
    """Return [N] labels of all positions, -100 where nothing is trained."""
    return torch.where(inputs.m != 0, inputs.input_ids[:, 1:], -100).flatten()


def cross_entropy(inputs: Inputs, **settings: object) -> Tensor:
    return nn.CrossEntropyLoss(**settings)(inputs.logits[:, :-1].flatten(0, 1), next_labels(inputs))


def linear_cross_entropy(inputs: Inputs) -> Tensor:
    fused = getattr(F, "linear_cross_entropy", None) or pytest.skip("this PyTorch has no linear_cross_entropy")
    hidden = inputs.logits[:, :-1].flatten(0, 1)
    return fused(hidden, torch.eye(V, dtype=hidden.dtype), next_labels(inputs), ignore_index=-100)


def nll(inputs: Inputs) -> Tensor:
    z, _, y = trained(inputs)
    return nn.NLLLoss()(z.log_softmax(dim=-1), y)


def weighted_cross_entropy(inputs: Inputs) -> Tensor:
    return cross_entropy(inputs, weight=CLASS_WEIGHTS.to(inputs.logits))


def with_class_weights(loss: LossFunction, inputs: Inputs) -> Tensor:
    return loss({**inputs.batch, "token_weights": CLASS_WEIGHTS[inputs.input_ids]}, inputs.outputs)


def kl_div(inputs: Inputs, forward: bool = True) -> Tensor:
    z, z_teacher, _ = trained(inputs)
    log_q, log_p = z.log_softmax(dim=-1), z_teacher.log_softmax(dim=-1)
    both = (log_q, log_p) if forward else (log_p, log_q)
    return nn.KLDivLoss(reduction="batchmean", log_target=True)(*both)


def kl_div_of_elements(inputs: Inputs) -> Tensor:
    z, z_teacher, _ = trained(inputs)
    return nn.KLDivLoss(reduction="mean")(z.log_softmax(dim=-1), z_teacher.softmax(dim=-1))


def categorical_kl(inputs: Inputs, forward: bool = True) -> Tensor:
    z, z_teacher, _ = trained(inputs)
    student, teacher = Categorical(logits=z), Categorical(logits=z_teacher)
    return (kl_divergence(teacher, student) if forward else kl_divergence(student, teacher)).mean()


def kl_both_ways(inputs: Inputs) -> Tensor:
    return 0.3 * kl_div(inputs) + 0.7 * kl_div(inputs, forward=False)


def less_entropy(inputs: Inputs) -> Tensor:
    z, _, y = trained(inputs)
    return nn.CrossEntropyLoss()(z, y) - 0.3 * Categorical(logits=z).entropy().mean()


def of_steps(loss: LossFunction, inputs: Inputs) -> Tensor:
    every = torch.ones_like(inputs.token_mask)
    return loss({**inputs.batch, "token_mask": every, "step_labels": labels(inputs)}, inputs.outputs)


def cross_entropy_of_steps(inputs: Inputs) -> Tensor:
    return nn.CrossEntropyLoss()(inputs.logits.flatten(0, 1), labels(inputs).flatten())


def of_two_heads(loss: LossFunction, inputs: Inputs) -> Tensor:
    return loss(inputs.batch, {"mtp_logits": torch.stack([inputs.logits, 2 * inputs.logits], dim=2)})


def cross_entropy_of_two_heads(inputs: Inputs) -> Tensor:
    y = labels(inputs)[:, 2:].flatten()
    after_next = nn.CrossEntropyLoss(reduction="sum")(2 * inputs.logits[:, :-2].flatten(0, 1), y)
    return cross_entropy(inputs) + 0.5 * after_next / inputs.m.sum()


def squared_log_sum(inputs: Inputs) -> Tensor:
    z, _, _ = trained(inputs)
    log_Z = z.logsumexp(dim=-1)
    return nn.MSELoss()(log_Z, torch.zeros_like(log_Z))


def squared_error(inputs: Inputs) -> Tensor:
    m = inputs.token_mask[:, 1:] != 0
    return nn.MSELoss()(inputs.predicted[:, 1:][m], inputs.returns[:, 1:][m])


ROWS = (
    Tokens("nll", counterpart="nn.CrossEntropyLoss(ignore_index=-100)", theirs=cross_entropy),
    Tokens("nll", counterpart="nn.NLLLoss()", theirs=nll),
    Tokens("nll", counterpart="nn.functional.linear_cross_entropy", theirs=linear_cross_entropy),
    Tokens(
        "label_smoothed_ce",
        counterpart="nn.CrossEntropyLoss(label_smoothing=0.2)",
        theirs=partial(cross_entropy, label_smoothing=0.2),
        config={"label_smoothing": 0.2},
    ),
    Tokens(
        "weighted_nll",
        counterpart="nn.CrossEntropyLoss(weight=w)",
        theirs=weighted_cross_entropy,
        option={"divisor": "weights"},
        ours=with_class_weights,
        note="the weight of a token is that of its class",
    ),
    Tokens(
        "mtp_ce",
        counterpart="nn.CrossEntropyLoss() per head",
        theirs=cross_entropy_of_two_heads,
        ours=of_two_heads,
        config={"head_weights": [1.0, 0.5]},
    ),
    Tokens("prm_token_ce", counterpart="nn.CrossEntropyLoss()", theirs=cross_entropy_of_steps, ours=of_steps),
    Tokens(
        "confidence_penalty",
        counterpart="nn.CrossEntropyLoss() and distributions.Categorical.entropy",
        theirs=less_entropy,
        config={"coefficient": 0.3},
    ),
    Tokens(
        "z_loss",
        counterpart="nn.MSELoss()(logsumexp, 0)",
        theirs=squared_log_sum,
        config={"coefficient": 1.0},
    ),
    Tokens("forward_kl", counterpart='nn.KLDivLoss("batchmean", log_target=True)(log_q, log_p)', theirs=kl_div),
    Tokens(
        "forward_kl",
        counterpart='nn.KLDivLoss("mean")(log_q, p)',
        theirs=kl_div_of_elements,
        difference="averages over the elements, which divides by the vocabulary too: ours / V",
        ours=partial(times, 1 / V),
    ),
    Tokens("forward_kl", counterpart="distributions.kl_divergence(p, q)", theirs=categorical_kl),
    Tokens(
        "reverse_kl",
        counterpart='nn.KLDivLoss("batchmean", log_target=True)(log_p, log_q)',
        theirs=partial(kl_div, forward=False),
    ),
    Tokens(
        "reverse_kl", counterpart="distributions.kl_divergence(q, p)", theirs=partial(categorical_kl, forward=False)
    ),
    Tokens(
        "mixed_kl",
        counterpart="nn.KLDivLoss both ways",
        theirs=kl_both_ways,
        config={"mixed_kl_weight": 0.3},
    ),
    Row(
        "value_mse",
        "torch",
        "nn.MSELoss()",
        values,
        squared_error,
        option={"scale": 2.0},
        note="no factor 1/2 there",
    ),
)
