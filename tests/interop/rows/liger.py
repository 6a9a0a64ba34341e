"""Liger-Kernel: chunked losses of hidden states and the weight of the head, which is the identity here."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction, registry
from tests.interop.comparison import Row
from tests.interop.inputs import PROMPT, B, Inputs, V, next_logprobs, sequences

# log-softmax is taken in float32 whatever comes in.
Liger = partial(Row, library="liger_kernel", inputs=sequences, dtype=torch.float32)
BETA = 0.3
HALVES = {"beta": BETA, "pair_layout": "halves"}
CLIP = {"ratio_clip_min": 0.15, "ratio_clip_max": 0.25}
LONGEST = 12


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


def with_one_nll(loss: LossFunction, inputs: Inputs, span: str = "response") -> Tensor:
    """Return ours with the mean over all tokens of all chosen answers in the place of one mean per answer."""
    lp = next_logprobs(inputs.logits, inputs.input_ids)[: B // 2]
    m = (inputs.m if span == "response" else inputs.attention_mask[:, 1:].to(lp))[: B // 2]
    per_answer = -((lp * m).sum(dim=1) / m.sum(dim=1)).mean()
    return loss(inputs.batch, inputs.outputs) - per_answer - (lp * m).sum() / m.sum()


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


def policy(inputs: Inputs, loss_type: str, beta: float = 0.0, old: bool = True, **settings: Any) -> Tensor:
    defaults: dict[str, Any] = {"epsilon_low": 0.15, "epsilon_high": 0.25, "max_completion_length": LONGEST}
    loss = module("GRPO", loss_type=loss_type, beta=beta, use_ref_model=beta > 0, **{**defaults, **settings})
    return loss(
        inputs.logits[:, PROMPT - 1 : -1],
        identity(inputs),
        inputs.input_ids[:, PROMPT:],
        inputs.token_mask[:, PROMPT:],
        inputs.row_advantages,
        ref_per_token_logps=inputs.reference_policy_logprobs[:, PROMPT:],
        old_per_token_logps=inputs.prev_logprobs[:, PROMPT:] if old else None,
    )[0]


def distilled(inputs: Inputs, name: str, **settings: Any) -> Tensor:
    head = identity(inputs)
    student, teacher = inputs.logits[:, :-1].flatten(0, 1), inputs.teacher_logits[:, :-1].flatten(0, 1)
    return module(name, **settings)(student, head, teacher, head, labels(inputs).flatten())


def pairs(loss: str, loss_type: str, shown: str = "", **fields: Any) -> Row:
    settings = fields.pop("settings", {})
    counterpart = f'DPOLoss(loss_type="{loss_type}"' + (f", {shown})" if shown else ")")
    theirs = partial(of_pairs, name="DPO", reference=True, loss_type=loss_type, **settings)
    return Liger(loss, counterpart=counterpart, theirs=theirs, **{"config": HALVES, **fields})


def grpo(loss: str, loss_type: str, shown: str = "", **fields: Any) -> Row:
    settings = fields.pop("settings", {})
    counterpart = f'GRPOLoss(loss_type="{loss_type}"' + (f", {shown})" if shown else ")")
    theirs = partial(policy, loss_type=loss_type, **settings)
    return Liger(loss, counterpart=counterpart, theirs=theirs, **{"config": CLIP, **fields})


SMOOTHED = {"settings": {"label_smoothing": 0.2}, "config": {**HALVES, "label_smoothing": 0.2}}
KL = {**CLIP, "reference_policy_kl_penalty": 0.1}
SEQUENCE = {"importance_sampling_level": "sequence"}
ONE_NLL = "the NLL is one mean over the tokens of all chosen answers, ours one mean per answer"

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
        difference=ONE_NLL,
        ours=with_one_nll,
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
        option={"nll_weight": 1.0},
        difference=ONE_NLL,
        ours=with_one_nll,
    ),
    Liger(
        "orpo",
        counterpart="ORPOLoss()",
        theirs=partial(of_pairs, name="ORPO"),
        config=HALVES,
        difference=ONE_NLL,
        ours=with_one_nll,
    ),
    Liger(
        "orpo",
        counterpart="ORPOLoss(), nll_target of prompt and response",
        theirs=orpo_of_everything,
        config=HALVES,
        option={"nll_span": "full"},
        difference=ONE_NLL,
        ours=partial(with_one_nll, span="full"),
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
    grpo("grpo", "grpo", "beta=0.1", settings={"beta": 0.1}, config=KL),
    grpo("grpo", "dapo", "beta=0.1", settings={"beta": 0.1}, config=KL, option={"aggregation": "token_mean"}),
    grpo("ppo_clip", "dapo", "beta=0"),
    grpo("dapo", "dapo", "beta=0"),
    grpo("bnpo", "bnpo", "beta=0"),
    grpo("dr_grpo", "dr_grpo", "beta=0", config={**CLIP, "max_length": float(LONGEST)}),
    grpo("ppo_dual_clip", "dapo", "delta=1.5", settings={"delta": 1.5}, config={**CLIP, "ratio_clip_c": 1.5}),
    grpo("gspo", "grpo", 'importance_sampling_level="sequence"', settings=SEQUENCE),
    grpo("luspo", "luspo", 'importance_sampling_level="sequence"', settings=SEQUENCE),
    grpo("cispo", "cispo", config={}, option={"absolute_bound": 0.25}, note="`epsilon_high` is the bound itself"),
    grpo("sapo", "sapo", config={}),
    grpo("vespo", "vespo", config={}),
    grpo("on_policy", "dapo", "no old log-probabilities", settings={"old": False}, config={}),
    Liger(
        "forward_kl",
        counterpart="JSDLoss(beta=0, weight_hard_loss=0, weight_soft_loss=1)",
        theirs=partial(distilled, name="JSD", beta=0.0, weight_hard_loss=0.0, weight_soft_loss=1.0),
    ),
    Liger(
        "reverse_kl",
        counterpart="JSDLoss(beta=1, weight_hard_loss=0, weight_soft_loss=1)",
        theirs=partial(distilled, name="JSD", beta=1.0, weight_hard_loss=0.0, weight_soft_loss=1.0),
    ),
    Liger(
        "forward_kl",
        counterpart="JSDLoss(beta=0, weight_hard_loss=0, weight_soft_loss=1, temperature=2)",
        theirs=partial(distilled, name="JSD", beta=0.0, weight_hard_loss=0.0, weight_soft_loss=1.0, temperature=2.0),
        config={"temperature": 2.0},
    ),
)
