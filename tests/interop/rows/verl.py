"""verl: its policy and value losses of log-probabilities, loaded without the cluster around them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.inputs import Inputs, near_reference, next_logprobs, sequences, values
from tests.interop.single_modules import load

GUARD = 1e-8
"""What is added to the length of an answer before something is divided by it."""
CLIP = {"ratio_clip_min": 0.15, "ratio_clip_max": 0.25}
NO_DUAL_CLIP = 1e9
PACKAGES = ("verl", "verl.trainer", "verl.trainer.ppo")
SEQUENCES = {"aggregation": "seq_mean_token_mean"}


def verl() -> Any:
    return load("verl.trainer.ppo.core_algos", PACKAGES, ("ray",))


def of_tokens(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return lp, its old values, advantages and mask, [B, S-1] each."""
    lp = next_logprobs(inputs.logits, inputs.input_ids)
    return lp, inputs.prev_logprobs[:, 1:], inputs.advantages[:, 1:], inputs.m


def actor_config(**settings: Any) -> Any:
    """Return verl's config of an actor with these settings and no check of what else it should have."""
    core = verl()
    made = object.__new__(core.ActorConfig)
    defaults = {"clip_ratio": 0.2, "clip_ratio_low": 0.15, "clip_ratio_high": 0.25, "clip_ratio_c": NO_DUAL_CLIP}
    more = {"global_batch_info": {}, "tau_pos": 1.0, "tau_neg": 1.05}
    for name, value in {**defaults, **more, **settings}.items():
        object.__setattr__(made, name, value)
    return made


def verl_policy(inputs: Inputs, name: str = "vanilla", agg: str = "token-mean", **settings: Any) -> Tensor:
    scale = settings.pop("loss_scale_factor", None)
    config = actor_config(global_batch_info={"loss_scale_factor": scale} if scale else {}, **settings)
    lp, old, A, m = of_tokens(inputs)
    function = getattr(verl(), f"compute_policy_loss_{name}")
    return function(old, lp, A, m, loss_agg_mode=agg, config=config)[0]


def verl_grpo(inputs: Inputs, penalty: str) -> Tensor:
    lp, _, _, m = of_tokens(inputs)
    k = verl().kl_penalty(lp, inputs.reference_policy_logprobs[:, 1:], penalty)
    agg = "seq-mean-token-mean"
    return verl_policy(inputs, agg=agg) + 0.1 * verl().agg_loss(k, m, agg)


def verl_value(inputs: Inputs) -> Tensor:
    given = (x[:, 1:] for x in (inputs.predicted, inputs.returns, inputs.batch["values"], inputs.token_mask))
    return verl().compute_value_loss(*given, cliprange_value=0.3)[0]


def with_an_empty_row(dtype: torch.dtype, seed: int) -> Inputs:
    inputs = sequences(dtype, seed)
    inputs.token_mask[2] = 0
    return inputs


def of_rows_with_tokens(loss: LossFunction, inputs: Inputs) -> Tensor:
    return loss({**inputs.batch, "sample_mask": (inputs.token_mask.sum(dim=1) > 0).float()}, inputs.outputs)


Verl = partial(Row, library="verl", inputs=sequences)

ROWS = (
    Verl(
        "ppo_clip",
        counterpart='compute_policy_loss_vanilla, "token-mean", clip_ratio_c=1.3',
        theirs=partial(verl_policy, clip_ratio_c=1.3),
        config=CLIP,
        option={"ratio_clip_c": 1.3},
        note="dual clip is always on there, 3 by default",
    ),
    Verl(
        "ppo_dual_clip",
        counterpart='compute_policy_loss_vanilla, "token-mean", clip_ratio_c=1.3',
        theirs=partial(verl_policy, clip_ratio_c=1.3),
        config={**CLIP, "ratio_clip_c": 1.3},
    ),
    Verl(
        "ppo_clip",
        counterpart='compute_policy_loss_vanilla, "seq-mean-token-mean"',
        theirs=partial(verl_policy, agg="seq-mean-token-mean"),
        config=CLIP,
        option=SEQUENCES,
        slack=GUARD,
    ),
    Verl(
        "ppo_clip",
        counterpart='compute_policy_loss_vanilla, "seq-mean-token-sum"',
        theirs=partial(verl_policy, agg="seq-mean-token-sum"),
        config=CLIP,
        option={"aggregation": "seq_mean_token_sum"},
    ),
    Verl(
        "dr_grpo",
        counterpart='compute_policy_loss_vanilla, "seq-mean-token-sum-norm", loss_scale_factor=12',
        theirs=partial(verl_policy, agg="seq-mean-token-sum-norm", loss_scale_factor=12),
        config={**CLIP, "max_length": 12.0},
        note="the factor defaults to the padded width",
    ),
    Verl(
        "ppo_clip",
        counterpart='compute_policy_loss_vanilla, "seq-mean-token-mean", an empty answer',
        inputs=with_an_empty_row,
        theirs=partial(verl_policy, agg="seq-mean-token-mean"),
        config={**CLIP, **SEQUENCES},
        difference="answers without a trained token are not counted: `sample_mask` 0 for them",
        ours=of_rows_with_tokens,
        slack=GUARD,
    ),
    *(
        Verl(
            "grpo",
            counterpart=f'compute_policy_loss_vanilla and kl_penalty "{penalty}", "seq-mean-token-mean"',
            inputs=near_reference,
            theirs=partial(verl_grpo, penalty=penalty),
            config={**CLIP, "reference_policy_kl_penalty": 0.1, "kl_type": kl_type},
            option=option,
            note="the estimator is clamped at 10" if kl_type == "k3" else "",
            slack=GUARD,
        )
        for penalty, kl_type, option in (
            ("low_var_kl", "k3", {}),
            ("kl", "k1", {}),
            ("mse", "k2", {}),
            ("abs", "abs", {}),
            ("k3+", "k3", {"kl_gradient": "straight_through_k2"}),
            ("k1+", "k1", {"kl_gradient": "straight_through_k2"}),
        )
    ),
    Verl(
        "gspo_token",
        counterpart="compute_policy_loss_gspo",
        theirs=partial(verl_policy, name="gspo", agg="seq-mean-token-mean"),
        config=CLIP,
        slack=GUARD,
    ),
    Verl(
        "gspo",
        counterpart="compute_policy_loss_gspo",
        theirs=partial(verl_policy, name="gspo", agg="seq-mean-token-mean"),
        config=CLIP,
        note="one advantage per answer",
        slack=GUARD,
    ),
    Verl("cispo", counterpart="compute_policy_loss_cispo", theirs=partial(verl_policy, name="cispo"), config=CLIP),
    Verl("sapo", counterpart="compute_policy_loss_sapo", theirs=partial(verl_policy, name="sapo"), slack=GUARD),
    Verl(
        "gmpo",
        counterpart="compute_policy_loss_geo_mean",
        theirs=partial(verl_policy, name="geo_mean"),
        config=CLIP,
        slack=2 * GUARD,
    ),
    Verl(
        "reinforce",
        counterpart="compute_policy_loss_reinforce",
        theirs=partial(verl_policy, name="reinforce", agg="seq-mean-token-sum"),
        option={"aggregation": "seq_mean_token_sum"},
    ),
    Row("value_clipped", "verl", "compute_value_loss", values, verl_value, config={"value_clip": 0.3}),
)
