"""TRL's trainer of preferences: the loss method of ``DPOTrainer``, for every loss type and divergence."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.inputs import Inputs, sequences
from tests.interop.trl_trainers import trainer

BETA = 0.3
HALVES = {"beta": BETA, "pair_layout": "halves"}


def dpo_trainer(inputs: Inputs, loss_type: str = "sigmoid", **settings: Any) -> Tensor:
    defaults: dict[str, Any] = {
        "beta": BETA,
        "loss_types": loss_type.split("+"),
        "loss_weights": [1.0] * (1 + loss_type.count("+")),
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "use_weighting": False,
        "args": {"discopop_tau": 0.05},
    }
    made = trainer("trainer.dpo_trainer.DPOTrainer", inputs, **{**defaults, **settings})
    batch = {
        "input_ids": inputs.input_ids,
        "completion_mask": inputs.token_mask.long(),
        "attention_mask": inputs.attention_mask,
    }
    return made._compute_loss(made.model, batch, False)


def of_chosen_half(loss: LossFunction, inputs: Inputs) -> Tensor:
    rows = torch.arange(len(inputs.input_ids)) < len(inputs.input_ids) // 2
    return loss({**inputs.batch, "sample_mask": rows.to(inputs.token_mask)}, inputs.outputs)


def row(loss: str, loss_type: str, shown: str = "", **fields: Any) -> Row:
    settings = fields.pop("settings", {})
    return Row(
        loss,
        "trl",
        f'DPOTrainer, loss_type="{loss_type}"' + (f", {shown}" if shown else ""),
        sequences,
        partial(dpo_trainer, loss_type=loss_type, **settings),
        **{"config": HALVES, **fields},
    )


SMOOTHED = {**HALVES, "label_smoothing": 0.2}

ROWS = (
    row("dpo", "sigmoid"),
    row(
        "cdpo",
        "sigmoid",
        "label_smoothing=0.2",
        settings={"label_smoothing": 0.2},
        config=HALVES,
        option={"label_smoothing": 0.0},
        note="`label_smoothing` is read by robust, exo_pair and aot alone there",
    ),
    row("hinge_dpo", "hinge"),
    row("ipo", "ipo", option={"average_log_probs": True}),
    row("dpo_norm", "sigmoid_norm"),
    row(
        "exo_pair",
        "exo_pair",
        "label_smoothing=0.2",
        settings={"label_smoothing": 0.2},
        config=SMOOTHED,
        dtype=torch.float32,
    ),
    row("robust_dpo", "robust", "label_smoothing=0.2", settings={"label_smoothing": 0.2}, config=SMOOTHED),
    row("nca_pair", "nca_pair"),
    row("bco_pair", "bco_pair"),
    row("sppo_hard", "sppo_hard"),
    row("aot", "aot"),
    row("aot_unpaired", "aot_unpaired"),
    *(
        row(
            name,
            name,
            "label_smoothing=0.2",
            settings={"label_smoothing": 0.2},
            option={"label_smoothing": 0.2},
        )
        for name in ("aot", "aot_unpaired")
    ),
    row("apo_zero", "apo_zero"),
    row("apo_down", "apo_down"),
    row("discopop", "discopop"),
    row(
        "nll",
        "sft",
        config={},
        difference="the chosen half alone: `sample_mask` 0 at rejected rows",
        ours=of_chosen_half,
    ),
    row("fdpo_forward_kl", "sigmoid", 'f_divergence_type="forward_kl"', settings={"f_divergence_type": "forward_kl"}),
    row("fdpo_js", "sigmoid", 'f_divergence_type="js_divergence"', settings={"f_divergence_type": "js_divergence"}),
    row(
        "fdpo_alpha",
        "sigmoid",
        'f_divergence_type="alpha_divergence"',
        settings={"f_divergence_type": "alpha_divergence"},
        dtype=torch.float32,
    ),
    row("ld_dpo", "sigmoid", "ld_alpha=0.25", settings={"ld_alpha": 0.25}, config={**HALVES, "alpha": 0.25}),
    row("wpo", "sigmoid", "use_weighting=True", settings={"use_weighting": True}),
    row(
        "mpo",
        "sigmoid+bco_pair+sft",
        "loss_weights=[0.8, 0.2, 1.0]",
        settings={"loss_weights": [0.8, 0.2, 1.0]},
        option={"nll_average": "tokens"},
    ),
    row(
        "rpo_nll",
        "sigmoid+sft",
        "loss_weights=[1.0, 0.4]",
        settings={"loss_weights": [1.0, 0.4]},
        config={**HALVES, "alpha": 0.4},
        option={"nll_average": "tokens"},
    ),
)
