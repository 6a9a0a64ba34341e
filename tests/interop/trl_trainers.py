"""TRL's trainers without training: their own loss method, run on a model that returns the logits of the inputs."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import nullcontext
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.interop.inputs import PROMPT, Inputs

# What is the same in every comparison: one process, evaluation, nothing but the loss itself.
SETTINGS: dict[str, Any] = {
    "_total_train_tokens": 0,
    "aux_loss_enabled": False,
    "precompute_ref_logps": False,
    "use_vllm": False,
    "top_entropy_quantile": 1.0,
    "off_policy_mask_threshold": None,
    "use_adaptive_entropy": False,
    "entropy_coef": 0.0,
    "_entropy_bonus_enabled": False,
    "is_encoder_decoder": False,
    "label_smoothing": 0.0,
    "importance_sampling_level": "token",
}


class Accelerator:
    """One process: what is gathered or reduced is what is there."""

    device, num_processes, sync_gradients = torch.device("cpu"), 1, True
    is_main_process, parallelism_config = False, None

    def gather(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x

    gather_for_metrics = reduce = pad_across_processes = unwrap_model = gather

    def autocast(self) -> Any:
        return nullcontext()


class Model(nn.Module):
    """A language model that knows its logits: by row and position, or by the input ids it is given."""

    is_gradient_checkpointing = False

    def __init__(self, logits: Tensor, other: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.given, self.other = logits, other
        self.eval()

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> Any:
        logits = self.given
        if self.other is not None and torch.equal(input_ids, self.other[0]):
            logits = self.other[1]
        if labels is None:
            return SimpleNamespace(logits=logits)
        log_pi, y = logits[:, :-1].log_softmax(dim=-1), labels[:, 1:]
        trained = y != -100
        lp = log_pi.gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1).masked_fill(~trained, 0)
        return SimpleNamespace(
            logits=logits,
            log_probs=lp,
            entropy=-(log_pi.exp() * log_pi).sum(dim=-1).masked_fill(~trained, 0),
            log_sum_sq_probs=(2 * log_pi).logsumexp(dim=-1).masked_fill(~trained, 0),
            mean_logits=logits[:, :-1].mean(dim=-1),
            is_top1=log_pi.argmax(dim=-1) == y,
            label_mask=trained,
        )


def trainer(path: str, inputs: Inputs, **settings: Any) -> Any:
    """Return an instance of TRL's trainer ``path`` (module and class) that was never constructed, only given settings."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    module, name = path.rsplit(".", 1)
    made = object.__new__(getattr(import_module(f"trl.{module}"), name))
    made.model = Model(inputs.leaves.get("logits"))
    made.ref_model = Model(inputs.given.reference_logits) if hasattr(inputs.given, "reference_logits") else None
    made.accelerator, made._metrics = Accelerator(), defaultdict(lambda: defaultdict(list))
    arguments = {"gradient_checkpointing_kwargs": None, **settings.pop("args", {})}
    vars(made).update({**SETTINGS, **settings, "args": SimpleNamespace(**arguments)})
    return made


def prompts_and_completions(inputs: Inputs, old: bool = True, **more: Any) -> dict[str, Any]:
    """Return the batch of the policy-gradient trainers: prompts are the first tokens, whatever the mask says."""
    ids, mask = inputs.input_ids, inputs.token_mask
    batch = {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": torch.ones_like(ids[:, :PROMPT]),
        "completion_ids": ids[:, PROMPT:],
        "completion_mask": mask[:, PROMPT:],
        "advantages": inputs.row_advantages,
        "ref_per_token_logps": inputs.reference_policy_logprobs[:, PROMPT:],
        "num_items_in_batch": mask[:, PROMPT:].sum(),
        **more,
    }
    return {**batch, "old_per_token_logps": inputs.prev_logprobs[:, PROMPT:]} if old else batch
