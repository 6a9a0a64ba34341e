"""Advantage estimators beside those of verl and torchtune: what goes into a policy-gradient loss before it is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Final

import torch
from torch import Tensor

from loss_reference.policy_gradient import advantages, group_advantages
from tests.interop.inputs import B, Draw, S
from tests.interop.rows.verl import verl

GUARD: Final = 1e-6
"""What is added to a standard deviation or a count before something is divided by it."""


@dataclass(frozen=True)
class Given:
    """Rewards of answers, and of tokens, with the old values of a critic."""

    r: Tensor
    groups: Tensor
    mask: Tensor
    rewards: Tensor
    values: Tensor


def given(seed: int) -> Given:
    """Draw six answers to three prompts, one of them alone, with a token of another hand in the first."""
    draw = Draw(torch.float64, seed)
    mask = (torch.arange(S) < draw.whole(S - 3, S + 1, B)[:, None]).to(torch.float64)
    mask[0, 2] = 0
    r = draw.normal(B)
    last = (mask * torch.arange(1, S + 1)).argmax(dim=1, keepdim=True)
    rewards = torch.zeros(B, S, dtype=torch.float64).scatter(1, last, r.unsqueeze(1))
    return Given(r, torch.tensor([0, 0, 0, 1, 1, 2]), mask, rewards, draw.normal(B, S) * mask)


@dataclass(frozen=True)
class Estimate:
    """One comparison: our function, theirs, and what the table says of them."""

    function: str
    library: str
    counterpart: str
    verdict: str
    ours: Callable[[Given], Tensor]
    theirs: Callable[[Given], Tensor]

    def __str__(self) -> str:
        return f"{self.function}-{self.library}-{self.counterpart}"


def per_token(of_answers: Callable[[Given], Tensor], x: Given) -> Tensor:
    return of_answers(x).unsqueeze(1) * x.mask


def of_verl(name: str, x: Given, **settings: object) -> Tensor:
    function = getattr(verl(), f"compute_{name}_outcome_advantage")
    return function(x.rewards.clone(), x.mask, index=x.groups.numpy(), **settings)[0]


def remax_of_verl(x: Given) -> Tensor:
    return verl().compute_remax_outcome_advantage(x.rewards, x.r.flip(0), x.mask)[0] * x.mask


def whitened_to_go_of_verl(x: Given) -> Tensor:
    config = SimpleNamespace(gamma=0.9)
    return verl().compute_reinforce_plus_plus_outcome_advantage(x.rewards, x.mask, config=config)[0]


def gae_of_verl(x: Given, which: int) -> Tensor:
    return verl().compute_gae_advantage_return(x.rewards, x.values, x.mask, 0.9, 0.8)[which] * x.mask


def gae_of_torchtune(x: Given) -> Tensor:
    function = import_module("torchtune.rlhf").estimate_advantages
    return function(x.values, x.rewards, 0.9, 0.8, masks=x.mask.bool())[0]


def whitened_gae(x: Given, carry_over: bool, keep_mean: bool = False) -> Tensor:
    A = advantages.gae(x.rewards, x.values, x.mask, 0.9, 0.8, carry_over).advantages
    mean = (A * x.mask).sum() / x.mask.sum() if keep_mean else 0.0
    return advantages.whiten(A, x.mask) + mean * x.mask


SINGLE: Final = 'same with `singleton="reward"`'
Verl = partial(Estimate, library="verl")

ESTIMATES: Final = (
    Verl(
        "grpo_advantages",
        counterpart="compute_grpo_outcome_advantage",
        verdict=SINGLE,
        ours=partial(per_token, lambda x: advantages.grpo_advantages(x.r, x.groups, singleton="reward")),
        theirs=partial(of_verl, "grpo"),
    ),
    Verl(
        "dr_grpo_advantages",
        counterpart="compute_grpo_outcome_advantage, norm_adv_by_std_in_grpo=False",
        verdict=SINGLE,
        ours=partial(per_token, lambda x: advantages.dr_grpo_advantages(x.r, x.groups, singleton="reward")),
        theirs=partial(of_verl, "grpo", norm_adv_by_std_in_grpo=False),
    ),
    Verl(
        "rloo_advantages",
        counterpart="compute_rloo_outcome_advantage",
        verdict=SINGLE,
        ours=partial(per_token, lambda x: advantages.rloo_advantages(x.r, x.groups, singleton="reward")),
        theirs=partial(of_verl, "rloo"),
    ),
    Verl(
        "opo_advantages",
        counterpart="compute_opo_outcome_advantage",
        verdict=SINGLE,
        ours=partial(
            per_token, lambda x: advantages.opo_advantages(x.r, x.mask.sum(dim=1), x.groups, singleton="reward")
        ),
        theirs=partial(of_verl, "opo"),
    ),
    Verl(
        "gpg_advantages",
        counterpart="compute_gpg_outcome_advantage",
        verdict=SINGLE,
        ours=partial(per_token, lambda x: group_advantages.gpg_advantages(x.r, x.groups, singleton="reward")),
        theirs=partial(of_verl, "gpg"),
    ),
    Verl(
        "remax_advantages",
        counterpart="compute_remax_outcome_advantage",
        verdict="same",
        ours=partial(per_token, lambda x: advantages.remax_advantages(x.r, x.r.flip(0))),
        theirs=remax_of_verl,
    ),
    Verl(
        "reinforce_plus_plus_advantages",
        counterpart="compute_reinforce_plus_plus_outcome_advantage",
        verdict="same",
        ours=lambda x: advantages.reinforce_plus_plus_advantages(x.rewards, x.mask, gamma=0.9),
        theirs=whitened_to_go_of_verl,
    ),
    Verl(
        "gae",
        counterpart="compute_gae_advantage_return, the advantages",
        verdict="differs: whitened over the batch, ours after `whiten`",
        ours=partial(whitened_gae, carry_over=True),
        theirs=partial(gae_of_verl, which=0),
    ),
    Verl(
        "gae",
        counterpart="compute_gae_advantage_return, the returns",
        verdict="same",
        ours=lambda x: advantages.gae(x.rewards, x.values, x.mask, 0.9, 0.8).returns,
        theirs=partial(gae_of_verl, which=1),
    ),
    Estimate(
        "gae",
        "torchtune",
        "estimate_advantages",
        "differs: whitened over the batch but for their mean, ours with `carry_over=False` after `whiten`, plus the mean",
        partial(whitened_gae, carry_over=False, keep_mean=True),
        gae_of_torchtune,
    ),
)
