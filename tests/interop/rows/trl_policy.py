"""TRL's trainers of policies: the loss methods of ``GRPOTrainer``, ``GMPOTrainer`` and ``RLOOTrainer``."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.inputs import Inputs, next_logprobs, sequences
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


def of_whole_answers(loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ours of rows of one token, whose log-probability is that of the whole answer."""
    lp = (next_logprobs(inputs.logits, inputs.input_ids) * inputs.m).sum(dim=1, keepdim=True)
    old = (inputs.prev_logprobs * inputs.token_mask).sum(dim=1, keepdim=True)
    batch = {
        "token_mask": torch.ones_like(old).expand(-1, 2),
        "prev_logprobs": old.expand(-1, 2),
        "advantages": inputs.advantages[:, :2],
    }
    return loss(batch, {"next_token_logprobs": lp})


def row(loss: str, loss_type: str, shown: str = "", **fields: Any) -> Row:
    settings = fields.pop("settings", {})
    counterpart = f'GRPOTrainer, loss_type="{loss_type}"' + (f", {shown}" if shown else "")
    theirs = partial(grpo_trainer, loss_type=loss_type, **settings)
    return Row(loss, "trl", counterpart, sequences, theirs, **{"config": CLIP, **fields})


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
    row("cispo", "cispo", config={}, option={"absolute_bound": HIGH}, note="`epsilon_high` is the bound itself"),
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
    Row(
        "ppo_clip",
        "trl",
        "RLOOTrainer",
        sequences,
        rloo_trainer,
        config=CLIP,
        difference="clips the ratio of the whole answer, a sum over its tokens: ours of one token per answer",
        ours=of_whole_answers,
    ),
)
