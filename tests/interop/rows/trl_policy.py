"""TRL's trainers of policies: the loss methods of ``GRPOTrainer``, ``GMPOTrainer`` and ``RLOOTrainer``."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.inputs import PROMPT, Inputs, sequences
from tests.interop.trl_trainers import prompts_and_completions, trainer

LOW, HIGH, LONGEST = 0.15, 0.25, 12
CLIP = {"ratio_clip_min": LOW, "ratio_clip_max": HIGH}
ARGS: dict[str, Any] = {
    "use_bias_correction_kl": False,
    "delta": None,
    "steps_per_generation": 1,
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "vespo_k_pos": 2.0,
    "vespo_lambda_pos": 3.0,
    "vespo_k_neg": 3.0,
    "vespo_lambda_neg": 2.0,
}


def grpo_trainer(
    inputs: Inputs, loss_type: str, path: str = "trainer.grpo_trainer.GRPOTrainer", old: bool = True, **settings: Any
) -> Tensor:
    defaults = {"loss_type": loss_type, "beta": 0.0, "epsilon_low": LOW, "epsilon_high": HIGH}
    args = {**ARGS, **settings.pop("args", {})}
    made = trainer(path, inputs, **{**defaults, "max_completion_length": LONGEST, **settings, "args": args})
    return made._compute_loss(made.model, prompts_and_completions(inputs, old))


def rloo_trainer(inputs: Inputs) -> Tensor:
    made = trainer("trainer.rloo_trainer.RLOOTrainer", inputs, epsilon_low=LOW, epsilon_high=HIGH)
    old = (inputs.prev_logprobs * inputs.token_mask).sum(dim=1)
    return made._compute_loss(made.model, prompts_and_completions(inputs, old=False, old_logps=old))


def of_advantages_zero(inputs: Inputs, **settings: Any) -> Tensor:
    """Return what is left of ``GRPOTrainer``'s loss where no answer is better than another: penalty and bonus."""
    inputs.given.row_advantages = torch.zeros_like(inputs.row_advantages)
    return grpo_trainer(inputs, "dapo", **settings)


def a2po_trainer(inputs: Inputs) -> Tensor:
    made = trainer("experimental.a2po.a2po_trainer.A2POTrainer", inputs, args={"beta2": 0.1}, model_kwarg_keys=())
    lp_ref = (inputs.reference_policy_logprobs * inputs.token_mask).sum(dim=1)
    rewards = inputs.batch["rewards"]
    batch = {
        "input_ids": inputs.input_ids,
        "attention_mask": inputs.token_mask,
        "logits_to_keep": inputs.input_ids.shape[1] - PROMPT,
        "ref_logps": lp_ref,
        "rewards": rewards,
        "v_star": rewards.flip(0),
    }
    return made.compute_loss(made.model, batch)


def with_values(loss: LossFunction, inputs: Inputs) -> Tensor:
    return loss({**inputs.batch, "v_star": inputs.batch["rewards"].flip(0)}, inputs.outputs)


def generated_by_the_old_policy(dtype: torch.dtype, seed: int) -> Inputs:
    inputs = sequences(dtype, seed)
    inputs.batch["generation_logprobs"] = inputs.prev_logprobs
    return inputs


Policy = partial(Row, library="trl", inputs=sequences)


def row(loss: str, loss_type: str, shown: str = "", **fields: Any) -> Row:
    settings = fields.pop("settings", {})
    counterpart = f'GRPOTrainer, loss_type="{loss_type}"' + (f", {shown}" if shown else "")
    theirs = partial(grpo_trainer, loss_type=loss_type, **settings)
    return Policy(loss, counterpart=counterpart, theirs=theirs, **{"config": CLIP, **fields})


NO_KL = {**CLIP, "reference_policy_kl_penalty": 0.0}

ROWS = (
    row("grpo", "grpo", "beta=0", config=NO_KL),
    row("grpo", "grpo", "beta=0.1", settings={"beta": 0.1}, config={**CLIP, "reference_policy_kl_penalty": 0.1}),
    row(
        "grpo",
        "dapo",
        "beta=0.1",
        settings={"beta": 0.1},
        config={**CLIP, "reference_policy_kl_penalty": 0.1},
        option={"aggregation": "token_mean"},
        note='`"dapo"` is the default of TRL',
    ),
    row("ppo_clip", "dapo"),
    row("dapo", "dapo"),
    row("bnpo", "bnpo"),
    row("dr_grpo", "dr_grpo", config={**CLIP, "max_length": float(LONGEST)}),
    row(
        "ppo_dual_clip",
        "dapo",
        "delta=1.5",
        settings={"args": {"delta": 1.5}},
        config={**CLIP, "ratio_clip_c": 1.5},
        note="for delta of at least 1 + epsilon_high",
    ),
    row("gspo", "grpo", 'importance_sampling_level="sequence"', settings={"importance_sampling_level": "sequence"}),
    row("luspo", "luspo", 'importance_sampling_level="sequence"', settings={"importance_sampling_level": "sequence"}),
    row(
        "luspo",
        "luspo",
        'importance_sampling_level="sequence", beta=0.1',
        settings={"importance_sampling_level": "sequence", "beta": 0.1},
        config={**CLIP, "reference_policy_kl_penalty": 0.1},
    ),
    row(
        "cispo",
        "cispo",
        config={"ratio_clip_max": HIGH},
        option={"weight_bound": "absolute"},
        note="`epsilon_high` is the bound itself",
    ),
    row("sapo", "sapo", config={}, dtype=torch.float32),
    row("vespo", "vespo", config={}),
    row("on_policy", "dapo", "no old log-probabilities", settings={"old": False}, config={}),
    row(
        "reinforce",
        "cispo",
        "no old log-probabilities, epsilon_high=5",
        settings={"old": False, "epsilon_high": 5.0},
        config={},
    ),
    Row(
        "gmpo",
        "trl",
        "experimental GMPOTrainer",
        sequences,
        partial(grpo_trainer, loss_type="grpo", path="experimental.gmpo.gmpo_trainer.GMPOTrainer"),
        config=CLIP,
    ),
    Row("rloo", "trl", "RLOOTrainer", sequences, rloo_trainer, config=CLIP),
    Row("a2po", "trl", "A2POTrainer, beta2=0.1", sequences, a2po_trainer, config={"beta": 0.1}, ours=with_values),
    row(
        "ppo_dual_clip",
        "dapo",
        "delta=1.1",
        settings={"args": {"delta": 1.1}},
        config={**CLIP, "ratio_clip_c": 1.1},
        option={"clip_c_bounds": "ratio"},
        note="delta below 1 + epsilon_high",
    ),
    row(
        "gspo",
        "dapo",
        'importance_sampling_level="sequence"',
        settings={"importance_sampling_level": "sequence"},
        option={"aggregation": "token_mean"},
    ),
    row(
        "off_policy_mask",
        "dapo",
        "off_policy_mask_threshold=0.05",
        settings={"off_policy_mask_threshold": 0.05},
        config={**CLIP, "threshold": 0.05},
        inputs=generated_by_the_old_policy,
    ),
    Policy("kl_k3", counterpart="GRPOTrainer, beta=1, advantages of 0", theirs=partial(of_advantages_zero, beta=1.0)),
    Policy(
        "kl_unbiased",
        counterpart="GRPOTrainer, use_bias_correction_kl=True, beta=1, advantages of 0",
        theirs=partial(of_advantages_zero, beta=1.0, args={"use_bias_correction_kl": True}),
    ),
    Policy(
        "entropy_bonus",
        counterpart="GRPOTrainer, entropy_coef=0.1, advantages of 0",
        theirs=partial(of_advantages_zero, entropy_coef=0.1, _entropy_bonus_enabled=True),
        config={"coefficient": 0.1},
    ),
    Policy(
        "entropy_bonus",
        counterpart="GRPOTrainer, entropy_coef=0.1, top_entropy_quantile=0.5, advantages of 0",
        theirs=partial(of_advantages_zero, entropy_coef=0.1, _entropy_bonus_enabled=True, top_entropy_quantile=0.5),
        config={"coefficient": 0.1, "top_quantile": 0.5},
        option={"divisor": "kept"},
        dtype=torch.float32,
    ),
)
