"""Rankings of allRank, and the losses of routers of experts in transformers."""

from __future__ import annotations

import math
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.inputs import B, Draw, Inputs, S, next_logprobs, scores, sequences
from tests.interop.single_modules import load

K, BETA, EXPERTS, LAYERS = 3, 0.3, 4, 2
GUARD = 1e-8
"""allRank adds 1e-10 inside logarithms, to numbers that may be as small as e^-4."""


# What the ranking losses themselves do not use of allRank, and what does not load without a cloud's file system.
UNUSED = ("allrank.data", "allrank.data.dataset_loading", "allrank.models.model_utils")


def module(name: str) -> Any:
    return partial(getattr(load(f"allrank.models.losses.{name}", absent=UNUSED), name), padded_value_indicator=-1)


def of_groups(inputs: Inputs, name: str, size: int = K, **settings: object) -> Tensor:
    return module(name)(
        inputs.leaves["rewards"].reshape(-1, size), inputs.batch["rewards"].reshape(-1, size), **settings
    )


def of_log_ratios(inputs: Inputs, name: str) -> Tensor:
    lp = next_logprobs(inputs.logits, inputs.input_ids)
    h = ((lp - inputs.reference_policy_logprobs[:, 1:]) * inputs.m).sum(dim=1)
    return module(name)(BETA * h.reshape(-1, K), inputs.batch["rewards"].reshape(-1, K))


def graded(dtype: torch.dtype, seed: int) -> Inputs:
    """Draw log-ratios of six answers to one prompt, as answers of one token, and their grades."""
    draw = Draw(dtype, seed)
    lp = draw.normal(B, 1).requires_grad_()
    batch = {
        "token_mask": torch.ones(B, 2),
        "reference_policy_logprobs": draw.normal(B, 2),
        "rewards": torch.tensor([3.0, 0.0, 1.0, 2.0, 0.0, 4.0]).to(dtype),
    }
    return Inputs({"lp": lp}, batch, {"next_token_logprobs": lp})


def lambda_rank(inputs: Inputs) -> Tensor:
    h = inputs.lp - inputs.reference_policy_logprobs[:, 1:]
    function = module("lambdaLoss")
    settings = {"weighing_scheme": "lambdaRank_scheme", "reduction_log": "natural"}
    return function(BETA * h.T, inputs.batch["rewards"].unsqueeze(0), **settings)


def by_ideal_gain(loss: LossFunction, inputs: Inputs) -> Tensor:
    grades = inputs.batch["rewards"].sort(descending=True).values
    ideal = ((2**grades - 1) / torch.log2(torch.arange(2, B + 2).to(grades))).sum()
    return loss(inputs.batch, inputs.outputs) * math.log(2) / ideal


def routed(dtype: torch.dtype, seed: int) -> Inputs:
    """Draw the router logits of two layers, and a mask of padding."""
    draw = Draw(dtype, seed)
    z = draw.normal(B, S, LAYERS, EXPERTS).requires_grad_()
    mask = (torch.arange(S) < draw.whole(S - 3, S + 1, B)[:, None]).to(dtype)
    return Inputs({"router_logits": z}, {"attention_mask": mask}, {"router_logits": z})


def mixtral(inputs: Inputs) -> Tensor:
    function = import_module("transformers.models.mixtral.modeling_mixtral").load_balancing_loss_func
    layers = tuple(inputs.router_logits[:, :, layer].flatten(0, 1) for layer in range(LAYERS))
    return function(layers, EXPERTS, top_k=2, attention_mask=inputs.attention_mask)


def switch(inputs: Inputs, name: str) -> Tensor:
    function = getattr(import_module("transformers.models.switch_transformers.modeling_switch_transformers"), name)
    z = inputs.router_logits[:, :, 0]
    return function(z) if "z_loss" in name else function(z.softmax(dim=-1), z.argmax(dim=-1))


def of_first_layer(loss: LossFunction, inputs: Inputs) -> Tensor:
    return loss({}, {"router_logits": inputs.router_logits[:, :, :1]})


def of_each_row(loss: LossFunction, inputs: Inputs) -> Tensor:
    rows = inputs.router_logits[:, :, :1].split(1)
    return torch.stack([loss({}, {"router_logits": row}) for row in rows]).mean()


Groups = partial(Row, library="allrank", inputs=scores, config={"group_size": K}, slack=GUARD)
Router = partial(Row, library="transformers", inputs=routed)

ROWS = (
    Groups("plackett_luce_rm", counterpart="listMLE", theirs=partial(of_groups, name="listMLE")),
    Groups("all_pairs_k", counterpart="rankNet", theirs=partial(of_groups, name="rankNet"), dtype=torch.float32),
    Row(
        "plackett_luce_dpo",
        "allrank",
        "listMLE of beta h",
        sequences,
        partial(of_log_ratios, name="listMLE"),
        config={"group_size": K, "beta": BETA},
        slack=GUARD,
    ),
    Row(
        "lipo",
        "allrank",
        'lambdaLoss(weighing_scheme="lambdaRank_scheme") of beta h',
        graded,
        lambda_rank,
        config={"group_size": B, "beta": BETA},
        difference="gains are divided by the ideal DCG and discounts have base 2: ours times log 2 / DCG",
        ours=by_ideal_gain,
        slack=GUARD,
        dtype=torch.float32,
    ),
    Router(
        "moe_load_balance",
        counterpart="models.mixtral load_balancing_loss_func",
        theirs=mixtral,
        dtype=torch.float32,
    ),
    Router(
        "moe_load_balance",
        counterpart="models.switch_transformers load_balancing_loss_func",
        theirs=partial(switch, name="load_balancing_loss_func"),
        config={"top_k": 1},
        dtype=torch.float32,
        difference="balances every sequence by itself and averages: ours of each row, averaged",
        ours=of_each_row,
        plain=of_first_layer,
    ),
    Router(
        "router_z_loss",
        counterpart="models.switch_transformers router_z_loss_func",
        theirs=partial(switch, name="router_z_loss_func"),
        ours=of_first_layer,
    ),
)
