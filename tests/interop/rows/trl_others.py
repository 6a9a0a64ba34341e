"""TRL's other trainers: rewards, KTO, SFT, and the experimental CPO, ORPO, TPO, online DPO and distillation."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.inputs import B, Draw, Inputs, V, next_logprobs, scores, sequences
from tests.interop.trl_trainers import Accelerator, Model, trainer

BETA = 0.3
HALVES = {"beta": BETA, "pair_layout": "halves"}
FROM_HALVES = torch.arange(B).reshape(2, -1).T.flatten()
FROM_THIRDS = torch.arange(B).reshape(3, -1).T.flatten()


def reordered(loss: LossFunction, inputs: Inputs, order: Tensor) -> Tensor:
    """Return ours of the rows in another order: neighbours where theirs are halves or thirds of the batch."""
    mappings = ({name: x[order] for name, x in fields.items()} for fields in (inputs.batch, inputs.outputs))
    return loss(*mappings)


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
    labels = torch.where(inputs.token_mask != 0, inputs.input_ids, -100)
    batch = {"input_ids": inputs.input_ids, "labels": labels, "attention_mask": inputs.attention_mask}
    return made.compute_loss(made.model, batch)


def pair_trainer(inputs: Inputs, method: str, **settings: Any) -> Tensor:
    """Return the loss of ``CPOTrainer`` or ``ORPOTrainer``, whose rows are laid out as halves."""
    path = f"experimental.{method.lower()}.{method.lower()}_trainer.{method}Trainer"
    defaults = {"beta": BETA, "pad_token_id": 0, "padding_value": 0}
    if method == "CPO":
        defaults |= {"loss_type": "sigmoid", "cpo_alpha": 0.0, "alpha": 0.0, "simpo_gamma": 0.5}
    made = trainer(path, inputs, **{**defaults, **settings})
    ids, N = inputs.input_ids, B // 2
    labels = torch.where(inputs.token_mask != 0, ids, -100)
    batch = {}
    for name, rows in (("chosen", slice(0, N)), ("rejected", slice(N, B))):
        batch[f"{name}_input_ids"], batch[f"{name}_labels"] = ids[rows], labels[rows]
        batch[f"{name}_attention_mask"] = inputs.attention_mask[rows]
    return made.get_batch_loss_metrics(PositionalModel(inputs.logits), batch)[0]


class PositionalModel(Model):
    """A model called with the input ids alone."""

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return super().forward(input_ids)


def with_nll_of_all_chosen(loss: LossFunction, inputs: Inputs, span: str) -> Tensor:
    """Return ours with the mean over all tokens of all chosen answers in the place of one mean per answer."""
    lp = next_logprobs(inputs.logits, inputs.input_ids)[: B // 2]
    m = (inputs.m if span == "response" else inputs.attention_mask[:, 1:].to(lp))[: B // 2]
    per_answer = -((lp * m).sum(dim=1) / m.sum(dim=1)).mean()
    return loss(inputs.batch, inputs.outputs) - per_answer - (lp * m).sum() / m.sum()


def tpo_trainer(inputs: Inputs, loss_type: str) -> Tensor:
    made = trainer(
        "experimental.tpo.tpo_trainer.TPOTrainer",
        inputs,
        loss_type=loss_type,
        beta=BETA,
        tpo_alpha=0.6,
        tpo_l_gamma=0.4,
    )
    batch = {
        "input_ids": inputs.input_ids,
        "attention_mask": inputs.attention_mask,
        "completion_mask": inputs.token_mask.long(),
    }
    return made._compute_loss(made.model, batch, False)


class Kept(Accelerator):
    """Keeps the loss that a training step sends backwards."""

    def backward(self, loss: Tensor, **_: Any) -> None:
        self.loss = loss


def online_dpo_trainer(inputs: Inputs, loss_type: str) -> Tensor:
    made = trainer(
        "experimental.online_dpo.online_dpo_trainer.OnlineDPOTrainer",
        inputs,
        beta=BETA,
        _beta=BETA,
        stats=defaultdict(list),
        eos_token_ids=[0],
        reward_funcs=[None],
        args={
            "loss_type": loss_type,
            "use_vllm": False,
            "missing_eos_penalty": None,
            "torch_empty_cache_steps": None,
            "optim": "",
            "n_gpu": 1,
            "gradient_accumulation_steps": 1,
        },
    )
    made.accelerator = Kept()
    ids, N = inputs.input_ids, B // 2
    policy, reference = made.model, made.ref_model
    lp = {id(policy): next_logprobs(inputs.logits, ids), id(reference): inputs.reference_policy_logprobs[:, 1:]}
    made._generate = lambda *_: (ids[:, :1], torch.ones_like(ids[:, :1]), ids[:, 1:], inputs.m, None)
    made._forward = lambda model, *_: lp[id(model)]
    made._calculate_rewards_from_functions = lambda **_: inputs.batch["rewards"].clone()
    made.processing_class = type("Tokenizer", (), {"batch_decode": staticmethod(lambda ids, **_: ["x"] * len(ids))})
    made.training_step(policy, {"prompt": ["x"] * N})
    return made.accelerator.loss


def judged(loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ours with a label for the first answer of each pair: it wins if its reward is at least the other's."""
    rewards = inputs.batch["rewards"]
    wins = (rewards[: B // 2] >= rewards[B // 2 :]).long().repeat(2)
    return loss({**inputs.batch, "labels": wins}, inputs.outputs)


Trl = partial(Row, library="trl", inputs=sequences)
Rewards = partial(Row, library="trl", inputs=scores, ours=partial(reordered, order=FROM_HALVES))
ONE_NLL = "the NLL is one mean over the tokens of all chosen answers, ours one mean per answer"
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
    Trl(
        "cpo",
        counterpart="CPOTrainer, cpo_alpha=0",
        theirs=partial(pair_trainer, method="CPO"),
        config={**HALVES, "alpha": 0.0},
    ),
    Trl(
        "cpo",
        counterpart="CPOTrainer, cpo_alpha=1",
        theirs=partial(pair_trainer, method="CPO", cpo_alpha=1.0),
        config=HALVES,
        difference=ONE_NLL,
        ours=partial(with_nll_of_all_chosen, span="response"),
    ),
    Trl(
        "simpo",
        counterpart='CPOTrainer, loss_type="simpo", cpo_alpha=0',
        theirs=partial(pair_trainer, method="CPO", loss_type="simpo"),
        config={**HALVES, "gamma": 0.5},
    ),
    Trl(
        "simpo",
        counterpart='CPOTrainer, loss_type="simpo", cpo_alpha=1 (its default)',
        theirs=partial(pair_trainer, method="CPO", loss_type="simpo", cpo_alpha=1.0),
        config={**HALVES, "gamma": 0.5},
        option={"nll_weight": 1.0},
        difference=ONE_NLL,
        ours=partial(with_nll_of_all_chosen, span="response"),
    ),
    Trl(
        "alphapo",
        counterpart='CPOTrainer, loss_type="simpo", alpha=0.25, cpo_alpha=0',
        theirs=partial(pair_trainer, method="CPO", loss_type="simpo", alpha=0.25),
        config={**HALVES, "gamma": 0.5, "alpha": 0.25},
    ),
    Trl(
        "slic_hf",
        counterpart='CPOTrainer, loss_type="hinge", cpo_alpha=0',
        theirs=partial(pair_trainer, method="CPO", loss_type="hinge"),
        config={"pair_layout": "halves", "delta": 1 / BETA},
        difference="scaled: beta times ours with delta = 1 / beta",
        ours=lambda loss, inputs: BETA * loss(inputs.batch, inputs.outputs),
    ),
    Trl(
        "orpo",
        counterpart="ORPOTrainer",
        theirs=partial(pair_trainer, method="ORPO"),
        config=HALVES,
        option={"nll_span": "full"},
        difference=ONE_NLL,
        ours=partial(with_nll_of_all_chosen, span="full"),
        dtype=torch.float32,
    ),
    *(
        Trl(
            "tpo",
            counterpart=f'TPOTrainer, loss_type="{loss_type}"',
            theirs=partial(tpo_trainer, loss_type=loss_type),
            config={"beta": BETA, "tpo_alpha": 0.6, "loss_type": loss_type},
            option={"nll_average": "tokens"},
            ours=partial(reordered, order=FROM_THIRDS),
        )
        for loss_type in ("sigmoid", "hinge", "ipo")
    ),
    Trl(
        "tpo_l",
        counterpart='TPOTrainer, loss_type="tpo-l"',
        theirs=partial(tpo_trainer, loss_type="tpo-l"),
        config={"beta": BETA, "tpo_alpha": 0.6, "gamma": 0.4},
        option={"nll_average": "tokens"},
        ours=partial(reordered, order=FROM_THIRDS),
    ),
    *(
        Trl(
            "online_dpo",
            counterpart=f'OnlineDPOTrainer, loss_type="{loss_type}"',
            theirs=partial(online_dpo_trainer, loss_type=loss_type),
            config={**HALVES, "loss_type": loss_type},
            ours=judged,
        )
        for loss_type in ("sigmoid", "ipo")
    ),
)
