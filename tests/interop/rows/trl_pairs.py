"""TRL's experimental trainers of pairs and triples: CPO, ORPO, TPO and online DPO."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.conversions import FROM_THIRDS, reordered, times
from tests.interop.inputs import B, Inputs, labels, next_logprobs, sequences
from tests.interop.trl_trainers import Accelerator, Model, trainer

BETA = 0.3
HALVES = {"beta": BETA, "pair_layout": "halves"}


def pair_trainer(inputs: Inputs, method: str, **settings: Any) -> Tensor:
    """Return the loss of ``CPOTrainer`` or ``ORPOTrainer``, whose rows are laid out as halves."""
    path = f"experimental.{method.lower()}.{method.lower()}_trainer.{method}Trainer"
    defaults = {"beta": BETA, "pad_token_id": 0, "padding_value": 0}
    if method == "CPO":
        defaults |= {"loss_type": "sigmoid", "cpo_alpha": 0.0, "alpha": 0.0, "simpo_gamma": 0.5}
    made = trainer(path, inputs, **{**defaults, **settings})
    ids, N = inputs.input_ids, B // 2
    y = labels(inputs)
    batch = {}
    for name, rows in (("chosen", slice(0, N)), ("rejected", slice(N, B))):
        batch[f"{name}_input_ids"], batch[f"{name}_labels"] = ids[rows], y[rows]
        batch[f"{name}_attention_mask"] = inputs.attention_mask[rows]
    return made.get_batch_loss_metrics(PositionalModel(inputs.logits), batch)[0]


class PositionalModel(Model):
    """A model called with the input ids alone."""

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return super().forward(input_ids)


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

ROWS = (
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
        option={"nll_average": "tokens"},
    ),
    Trl(
        "cpo",
        counterpart="CPOTrainer, cpo_alpha=0, label_smoothing=0.2",
        theirs=partial(pair_trainer, method="CPO", label_smoothing=0.2),
        config={**HALVES, "alpha": 0.0},
        option={"label_smoothing": 0.2},
    ),
    *(
        Trl(
            "cpo",
            counterpart=f'CPOTrainer, loss_type="{loss_type}", cpo_alpha=1',
            theirs=partial(pair_trainer, method="CPO", loss_type=loss_type, cpo_alpha=1.0),
            config={**HALVES, "nll_average": "tokens"},
            option={"loss_type": loss_type},
        )
        for loss_type in ("hinge", "ipo")
    ),
    Trl(
        "simpo",
        counterpart='CPOTrainer, loss_type="simpo", cpo_alpha=0, label_smoothing=0.2',
        theirs=partial(pair_trainer, method="CPO", loss_type="simpo", label_smoothing=0.2),
        config={**HALVES, "gamma": 0.5},
        option={"label_smoothing": 0.2},
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
        option={"nll_weight": 1.0, "nll_average": "tokens"},
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
        ours=partial(times, BETA),
    ),
    Trl(
        "orpo",
        counterpart="ORPOTrainer",
        theirs=partial(pair_trainer, method="ORPO"),
        config=HALVES,
        option={"nll_span": "full", "nll_average": "tokens"},
        dtype=torch.float32,
    ),
    *(
        Trl(
            "tpo",
            counterpart=f'TPOTrainer, loss_type="{loss_type}"',
            theirs=partial(tpo_trainer, loss_type=loss_type),
            config={"beta": BETA, "tpo_alpha": 0.6, "loss_type": loss_type},
            option={"nll_average": "tokens"},
            ours=partial(reordered, FROM_THIRDS),
        )
        for loss_type in ("sigmoid", "hinge", "ipo")
    ),
    Trl(
        "tpo_l",
        counterpart='TPOTrainer, loss_type="tpo-l"',
        theirs=partial(tpo_trainer, loss_type="tpo-l"),
        config={"beta": BETA, "tpo_alpha": 0.6, "gamma": 0.4},
        option={"nll_average": "tokens"},
        ours=partial(reordered, FROM_THIRDS),
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
