"""Liger-Kernel: chunked preference losses of hidden states and a head, which is the identity here."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction, registry
from tests.interop.comparison import Row
from tests.interop.inputs import B, Inputs, V, sequences

# log-softmax is taken in float32 whatever comes in.
Liger = partial(Row, library="liger_kernel", inputs=sequences, dtype=torch.float32)
BETA = 0.3
HALVES = {"beta": BETA, "pair_layout": "halves"}


def module(name: str, **settings: Any) -> Any:
    return getattr(import_module("liger_kernel.chunked_loss"), f"LigerFusedLinear{name}Loss")(
        compiled=False, **settings
    )


def identity(inputs: Inputs) -> Tensor:
    return torch.eye(V, dtype=inputs.logits.dtype)


def labels(inputs: Inputs) -> Tensor:
    return torch.where(inputs.m != 0, inputs.input_ids[:, 1:], -100)


def of_pairs(inputs: Inputs, name: str, reference: bool = False, **settings: Any) -> Tensor:
    head, y = identity(inputs), labels(inputs)
    more = {"ref_input": inputs.reference_logits[:, :-1], "ref_weight": head} if reference else {}
    return module(name, beta=BETA, **settings)(head, inputs.logits[:, :-1], y, **more)[0]


def orpo_of_everything(inputs: Inputs) -> Tensor:
    everything = torch.where(inputs.attention_mask[:, 1:] != 0, inputs.input_ids[:, 1:], -100)
    head = identity(inputs)
    return module("ORPO", beta=BETA)(head, inputs.logits[:, :-1], labels(inputs), nll_target=everything)[0]


def plus_nll_of_chosen(loss: LossFunction, inputs: Inputs) -> Tensor:
    chosen = (torch.arange(B) < B // 2).to(inputs.token_mask)
    nll = registry.create("nll")({**inputs.batch, "sample_mask": chosen}, inputs.outputs)
    return loss(inputs.batch, inputs.outputs) + 0.4 * nll


def kto(inputs: Inputs, kl: float, reference: bool = True) -> Tensor:
    head = identity(inputs)
    return module("KTO", beta=BETA, use_ref_model=reference)(
        inputs.logits[:, :-1],
        head,
        labels(inputs),
        preference_labels=inputs.labels.bool(),
        ref_input=inputs.reference_logits[:, :-1],
        ref_weight=head,
        kl=torch.tensor(kl),
    )[0]


def of_reference_point(loss: LossFunction, inputs: Inputs, kl: float) -> Tensor:
    return loss({**inputs.batch, "kl_reference_point": torch.tensor(kl)}, inputs.outputs)


def of_no_reference(loss: LossFunction, inputs: Inputs) -> Tensor:
    without = torch.zeros_like(inputs.reference_policy_logprobs)
    return loss({**inputs.batch, "reference_policy_logprobs": without}, inputs.outputs)


def pairs(loss: str, loss_type: str, shown: str = "", **fields: Any) -> Row:
    settings = fields.pop("settings", {})
    counterpart = f'DPOLoss(loss_type="{loss_type}"' + (f", {shown})" if shown else ")")
    theirs = partial(of_pairs, name="DPO", reference=True, loss_type=loss_type, **settings)
    return Liger(loss, counterpart=counterpart, theirs=theirs, **{"config": HALVES, **fields})


SMOOTHED = {"settings": {"label_smoothing": 0.2}, "config": {**HALVES, "label_smoothing": 0.2}}

ROWS = (
    pairs("dpo", "sigmoid"),
    pairs("dpo_norm", "sigmoid", "average_log_prob=True", settings={"average_log_prob": True}),
    pairs(
        "dpo",
        "sigmoid",
        "compute_nll_loss=True, alpha=0.4",
        settings={"compute_nll_loss": True, "alpha": 0.4},
        difference="adds alpha times the NLL of the chosen half: ours plus alpha times `nll` of it",
        ours=plus_nll_of_chosen,
    ),
    pairs("hinge_dpo", "hinge"),
    pairs("exo_pair", "exo_pair", "label_smoothing=0.2", **SMOOTHED),
    pairs("robust_dpo", "robust", "label_smoothing=0.2", **SMOOTHED),
    pairs("nca_pair", "nca_pair"),
    pairs("bco_pair", "bco_pair"),
    pairs("sppo_hard", "sppo_hard"),
    pairs("apo_zero", "apo_zero"),
    pairs("apo_down", "apo_down"),
    pairs("discopop", "discopop"),
    Liger(
        "cpo",
        counterpart="CPOLoss(compute_nll_loss=False)",
        theirs=partial(of_pairs, name="CPO", compute_nll_loss=False),
        config={**HALVES, "alpha": 0.0},
    ),
    Liger(
        "cpo",
        counterpart="CPOLoss()",
        theirs=partial(of_pairs, name="CPO"),
        config=HALVES,
        option={"nll_average": "tokens"},
    ),
    Liger(
        "simpo",
        counterpart="SimPOLoss(compute_nll_loss=False)",
        theirs=partial(of_pairs, name="SimPO", compute_nll_loss=False, gamma=0.7),
        config={**HALVES, "gamma": 0.7},
    ),
    Liger(
        "simpo",
        counterpart="SimPOLoss() (its default adds an NLL)",
        theirs=partial(of_pairs, name="SimPO", gamma=0.7),
        config={**HALVES, "gamma": 0.7},
        option={"nll_weight": 1.0, "nll_average": "tokens"},
    ),
    Liger(
        "orpo",
        counterpart="ORPOLoss()",
        theirs=partial(of_pairs, name="ORPO"),
        config=HALVES,
        option={"nll_average": "tokens"},
    ),
    Liger(
        "orpo",
        counterpart="ORPOLoss(), nll_target of prompt and response",
        theirs=orpo_of_everything,
        config=HALVES,
        option={"nll_span": "full", "nll_average": "tokens"},
    ),
    Liger(
        "kto",
        counterpart="KTOLoss(use_ref_model=True), kl=0.4",
        theirs=partial(kto, kl=0.4),
        config={"beta": BETA},
        ours=partial(of_reference_point, kl=0.4),
    ),
    Liger(
        "apo_zero_unpaired",
        counterpart="KTOLoss(use_ref_model=True), kl=0",
        theirs=partial(kto, kl=0.0),
        config={"beta": BETA},
    ),
    Liger(
        "apo_zero_unpaired",
        counterpart="KTOLoss(), kl=0",
        theirs=partial(kto, kl=0.0, reference=False),
        config={"beta": BETA},
        difference="`use_ref_model` is False by default and a reference that is given is not read: ours of reference 0",
        ours=of_no_reference,
    ),
)
