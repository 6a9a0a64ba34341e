"""TRL's trainers of reward models, of unpaired answers and of demonstrations."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.conversions import FROM_HALVES, reordered
from tests.interop.inputs import Draw, Inputs, V, labels, next_logprobs, scores, sequences
from tests.interop.trl_trainers import Model, trainer

BETA = 0.3


def reward_trainer(inputs: Inputs, margin: bool = False, center: float | None = None) -> Tensor:
    r = inputs.leaves["rewards"]
    made = trainer("trainer.reward_trainer.RewardTrainer", inputs, args={"center_rewards_coefficient": center})
    batch = {"input_ids": torch.zeros(len(r), 1), **({"margin": inputs.margin[: len(r) // 2]} if margin else {})}
    return made.compute_loss(Model(r.unsqueeze(1)), batch)


def kto_trainer(inputs: Inputs, loss_type: str) -> Tensor:
    other_ids = (inputs.input_ids + 1) % V
    other = {name: Draw(inputs.logits.dtype, seed).normal(*inputs.logits.shape) for name, seed in (("p", 7), ("q", 8))}
    made = trainer(
        "trainer.kto_trainer.KTOTrainer",
        inputs,
        loss_type=loss_type,
        beta=BETA,
        calculate_KL=loss_type == "kto",
        desirable_weight=1.2,
        undesirable_weight=0.7,
    )
    made.model = Model(inputs.logits, (other_ids, other["p"]))
    made.ref_model = Model(inputs.reference_logits, (other_ids, other["q"]))
    batch = {
        "input_ids": inputs.input_ids,
        "attention_mask": inputs.attention_mask,
        "completion_mask": inputs.token_mask.long(),
        "label": inputs.labels.bool(),
        "KL_input_ids": other_ids,
        "KL_attention_mask": inputs.attention_mask,
        "KL_completion_mask": inputs.token_mask.long(),
    }
    gap = next_logprobs(other["p"], other_ids) - next_logprobs(other["q"], other_ids)
    inputs.batch["mismatched_log_ratios"] = (gap * inputs.m).sum(dim=1)
    return made._compute_loss(made.model, batch, False)


def of_mismatched(loss: LossFunction, inputs: Inputs) -> Tensor:
    kto_trainer(inputs, "kto")  # leaves the mismatched log-ratios in the batch
    return loss(inputs.batch, inputs.outputs)


def sft_trainer(inputs: Inputs, loss_type: str) -> Tensor:
    made = trainer(
        "trainer.sft_trainer.SFTTrainer",
        inputs,
        label_smoother=None,
        compute_loss_func=None,
        _signature_columns=None,
        args={"loss_type": loss_type, "average_tokens_across_devices": False, "max_length": None},
    )
    batch = {"input_ids": inputs.input_ids, "labels": labels(inputs), "attention_mask": inputs.attention_mask}
    return made.compute_loss(made.model, batch)


Trl = partial(Row, library="trl", inputs=sequences)
Rewards = partial(Row, library="trl", inputs=scores, ours=partial(reordered, FROM_HALVES))
KTO = {"beta": BETA, "desirable_weight": 1.2, "undesirable_weight": 0.7}

ROWS = (
    Rewards("bradley_terry", counterpart="RewardTrainer", theirs=reward_trainer),
    Rewards(
        "bt_centered",
        counterpart="RewardTrainer, center_rewards_coefficient=0.1",
        theirs=partial(reward_trainer, center=0.1),
        config={"center_coefficient": 0.1},
    ),
    Rewards("bt_margin", counterpart='RewardTrainer, inputs["margin"]', theirs=partial(reward_trainer, margin=True)),
    Trl(
        "kto",
        counterpart='KTOTrainer, loss_type="kto"',
        theirs=partial(kto_trainer, loss_type="kto"),
        config=KTO,
        ours=of_mismatched,
    ),
    Trl(
        "apo_zero_unpaired",
        counterpart='KTOTrainer, loss_type="apo_zero_unpaired"',
        theirs=partial(kto_trainer, loss_type="apo_zero_unpaired"),
        config=KTO,
    ),
    Trl("nll", counterpart='SFTTrainer, loss_type="nll"', theirs=partial(sft_trainer, loss_type="nll")),
    Trl("dft", counterpart='SFTTrainer, loss_type="dft"', theirs=partial(sft_trainer, loss_type="dft")),
)
