"""TRL's trainers of students: GKD, distillation, GOLD, self-distillation and importance-weighted on-policy distillation."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.inputs import PROMPT, Inputs, V, labels, next_logprobs, sequences, token_aligned
from tests.interop.trl_trainers import prompts_and_completions, trainer

K = 3
FLOAT32 = torch.float32


def with_teacher(dtype: torch.dtype, seed: int) -> Inputs:
    """Return ``sequences`` without a hole in the mask, and what the teacher says of the sampled tokens."""
    inputs = sequences(dtype, seed)
    position = torch.arange(inputs.token_mask.shape[1])
    first, last = inputs.token_mask.argmax(dim=1), inputs.input_lengths
    whole = (position >= first[:, None]) & (position < last[:, None])
    inputs.batch["token_mask"] = whole.to(dtype)
    inputs.given.m = inputs.token_mask[:, 1:]
    inputs.batch["teacher_logprobs"] = token_aligned(next_logprobs(inputs.teacher_logits, inputs.input_ids))
    return inputs


def generalized_jsd(inputs: Inputs, beta: float) -> Tensor:
    made = trainer("experimental.gkd.gkd_trainer.GKDTrainer", inputs)
    return made.generalized_jsd_loss(inputs.logits[:, :-1], inputs.teacher_logits[:, :-1], labels(inputs)[:, 1:], beta)


def chunked_divergence(inputs: Inputs, beta: float) -> Tensor:
    function = import_module("trl.trainer.distillation_trainer")._chunked_divergence_loss
    student, teacher = inputs.logits[:, :-1], inputs.teacher_logits[:, :-1]
    head = torch.eye(V, dtype=student.dtype)
    return function(student, teacher, head, head, inputs.m, beta)[0]


def gold(inputs: Inputs, matched: int = 0, **settings: Any) -> Tensor:
    """Return the ULD loss of a student and a teacher whose first ``matched`` tokens are spelt alike."""
    defaults = {
        "uld_crossentropy_weight": 0.0,
        "uld_distillation_weight": 1.0,
        "uld_student_temperature": 1.0,
        "uld_teacher_temperature": 1.0,
        "uld_skip_student_eos": False,
        "uld_skip_teacher_eos": False,
        "use_extended_uld": False,
        "uld_token_merge_strategy": "bayesian",
        "uld_use_hybrid_loss": matched > 0,
    }
    spelt = [{f"{i}" if i < matched else f"{side}{i}": i for i in range(V)} for side in ("student", "teacher")]
    tokenizers = [SimpleNamespace(get_vocab=lambda vocabulary=vocabulary: vocabulary) for vocabulary in spelt]
    module = import_module("trl.experimental.gold.gold_trainer")
    loss = module.ULDLoss(SimpleNamespace(**{**defaults, **settings}), *tokenizers)
    both = (labels(inputs), labels(inputs), inputs.input_ids, inputs.input_ids)
    return loss(inputs.logits, inputs.teacher_logits, *both)


def self_distilled(inputs: Inputs, mode: str, method: str = "sdft", **settings: Any) -> Tensor:
    args = {
        "distillation_mode": mode,
        "distillation_topk": K,
        "distillation_add_tail": False,
        "distillation_is_clip": 1.2,
        "distillation_weight": 1.0,
        **settings,
    }
    path = f"experimental.{method}.{method}_trainer.{method.upper()}Trainer"
    made = trainer(
        path, inputs, args=args, epsilon_low=0.2, epsilon_high=0.2, loss_type="grpo", use_teacher_server=False
    )
    made._log_self_distillation_metric = lambda *_: None
    kept = SimpleNamespace(
        student_logits=inputs.logits[:, PROMPT - 1 : -1],
        teacher_logits=inputs.teacher_logits[:, PROMPT - 1 : -1],
        completion_ids=inputs.input_ids[:, PROMPT:],
        loss_mask=inputs.token_mask[:, PROMPT:],
    )
    made._compute_teacher_student_logits, made.teacher_model = lambda *_: kept, None
    batch = prompts_and_completions(inputs)
    if method == "sdpo":
        return made.compute_loss(made.model, batch)
    return made._compute_self_distillation_loss(made.model, batch, kept)


def full_divergence(inputs: Inputs, alpha: float) -> Tensor:
    function = import_module("trl.experimental.sdft.loss_utils").compute_full_logit_self_distillation_loss
    terms = function(inputs.logits[:, :-1], inputs.teacher_logits[:, :-1], distillation_alpha=alpha)
    return (terms * inputs.m).sum() / inputs.m.sum()


def top_divergence(inputs: Inputs, alpha: float, tail: bool) -> Tensor:
    function = import_module("trl.experimental.sdft.loss_utils").compute_topk_self_distillation_loss
    settings = {"distillation_topk": K, "distillation_alpha": alpha, "distillation_add_tail": tail}
    terms = function(inputs.logits[:, :-1], inputs.teacher_logits[:, :-1], **settings)
    return (terms * inputs.m).sum() / inputs.m.sum()


def of_the_students_top(loss: LossFunction, inputs: Inputs) -> Tensor:
    top = inputs.logits.detach().topk(K, dim=-1).indices
    of_teacher = inputs.teacher_logits.gather(-1, top)
    batch = {name: x for name, x in inputs.batch.items() if name != "teacher_logits"}
    return loss({**batch, "teacher_topk_logits": of_teacher, "teacher_topk_indices": top}, inputs.outputs)


def sampled_divergence(inputs: Inputs) -> Tensor:
    function = import_module("trl.experimental.sdft.loss_utils").compute_sampled_token_self_distillation_loss
    ids = inputs.input_ids[:, 1:]
    terms = function(inputs.logits[:, :-1], inputs.teacher_logits[:, :-1], ids, distillation_alpha=1.0)
    return (terms * inputs.m).sum() / inputs.m.sum()


def weighted_on_policy(inputs: Inputs, rollout: bool) -> Tensor:
    path = "experimental.iw_opd.iw_opd_trainer.IWOPDTrainer"
    made = trainer(path, inputs, temperature=1.0, iw_opd_epsilon=1e-8, iw_opd_gamma=0.4)
    given = inputs.generation_logprobs[:, 1:] if rollout else None
    y = labels(inputs)[:, 1:]
    return made._compute_iw_opd_loss(
        inputs.logits[:, :-1], inputs.input_ids[:, 1:], y, inputs.teacher_logprobs[:, 1:], given
    )


def without_rollout(loss: LossFunction, inputs: Inputs) -> Tensor:
    batch = {name: x for name, x in inputs.batch.items() if name != "generation_logprobs"}
    return loss(batch, inputs.outputs)


Student = partial(Row, library="trl", inputs=with_teacher)
SELF = "SDFTTrainer"

ROWS = (
    *(
        Student(
            loss, counterpart=f"GKDTrainer, beta={beta:g}", theirs=partial(generalized_jsd, beta=beta), config=config
        )
        for loss, beta, config in (
            ("forward_kl", 0, {}),
            ("reverse_kl", 1, {}),
            ("generalized_jsd", 0.25, {"beta": 0.25}),
        )
    ),
    *(
        Student(
            loss,
            counterpart=f"DistillationTrainer, beta={beta:g}",
            theirs=partial(chunked_divergence, beta=beta),
            config=config,
            dtype=FLOAT32,
        )
        for loss, beta, config in (
            ("forward_kl", 0.0, {}),
            ("reverse_kl", 1.0, {}),
            ("generalized_jsd", 0.25, {"beta": 0.25}),
        )
    ),
    Student("uld", counterpart="GOLDTrainer, ULDLoss", theirs=gold),
    Student(
        "hybrid_uld",
        counterpart="GOLDTrainer, ULDLoss, uld_use_hybrid_loss=True, beta=0.5",
        theirs=partial(gold, matched=4, beta=0.5),
        config={"vocabulary_map": [0, 1, 2, 3, -1, -1, -1]},
        note="a probability is taken as 1e-8 at least",
    ),
    Student(
        "sdft",
        counterpart=f'{SELF}, distillation_mode="full_logits", distillation_is_clip=1.2',
        theirs=partial(self_distilled, mode="full_logits", distillation_alpha=0.25),
        config={"alpha": 0.25, "is_clip": 1.2},
        dtype=FLOAT32,
    ),
    Student(
        "sdft",
        counterpart=f'{SELF}, distillation_mode="topk_logits", distillation_is_clip=1.2',
        theirs=partial(self_distilled, mode="topk_logits", distillation_alpha=0.25),
        config={"alpha": 0.25, "is_clip": 1.2},
        difference="the K likeliest tokens of the student: ours of a teacher restricted to them",
        ours=of_the_students_top,
        dtype=FLOAT32,
    ),
    Student(
        "sdpo",
        counterpart='SDPOTrainer, distillation_mode="sampled_token", distillation_is_clip=1.2',
        theirs=partial(self_distilled, mode="sampled_token", method="sdpo", distillation_alpha=1.0),
        config={"is_clip": 1.2},
    ),
    Student(
        "sdpo",
        counterpart="SDPOTrainer, distillation_weight=0.4",
        theirs=partial(
            self_distilled, mode="sampled_token", method="sdpo", distillation_alpha=1.0, distillation_weight=0.4
        ),
        config={"is_clip": 1.2, "distillation_weight": 0.4},
    ),
    Student(
        "generalized_jsd",
        counterpart=f"{SELF}, compute_full_logit_self_distillation_loss",
        theirs=partial(full_divergence, alpha=0.25),
        config={"beta": 0.25},
    ),
    Student(
        "tail_bucket",
        counterpart=f"{SELF}, compute_topk_self_distillation_loss, distillation_add_tail=True",
        theirs=partial(top_divergence, alpha=1.0, tail=True),
        config={"k": K, "kl_type": "reverse"},
    ),
    Student(
        "topk_renorm",
        counterpart=f"{SELF}, compute_topk_self_distillation_loss",
        theirs=partial(top_divergence, alpha=1.0, tail=False),
        config={"k": K, "kl_type": "reverse"},
        difference="the K likeliest tokens of the student, not of the teacher: ours given those",
        ours=of_the_students_top,
    ),
    Student(
        "opd_sampled",
        counterpart=f"{SELF}, compute_sampled_token_self_distillation_loss",
        theirs=sampled_divergence,
    ),
    Student(
        "iw_opd",
        counterpart="IWOPDTrainer",
        theirs=partial(weighted_on_policy, rollout=True),
        config={"gamma": 0.4},
    ),
    Student(
        "iw_opd",
        counterpart="IWOPDTrainer without rollout log-probabilities",
        theirs=partial(weighted_on_policy, rollout=False),
        config={"gamma": 0.4},
        ours=without_rollout,
    ),
)
