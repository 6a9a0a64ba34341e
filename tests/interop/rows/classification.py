"""Classification losses of transformers, timm, kornia, MONAI, torchvision, speechbrain and segmentation packages."""

from __future__ import annotations

import math
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import Row, as_given
from tests.interop.conversions import times
from tests.interop.inputs import Inputs, V, labels, scores, sequences, trained
from tests.interop.single_modules import load

Tokens = partial(Row, inputs=sequences)
FLOAT32 = torch.float32
SMOOTHING = {"label_smoothing": 0.2}
PER_CLASS = "averages over tokens and classes: ours / V"
SIGMOID = "a sigmoid per class, not a softmax over them: ours of the two logits (0, x)"


class Known(torch.nn.Module):
    """A model of known hidden states."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, **_: Any) -> Any:
        return SimpleNamespace(last_hidden_state=self.hidden, past_key_values=None, hidden_states=None, attentions=None)


def of_tokens(inputs: Inputs, path: str, name: str, **settings: Any) -> Tensor:
    return getattr(import_module(path), name)(**settings)(*trained(inputs)[::2])


def causal_lm(inputs: Inputs, count: int | None = None) -> Tensor:
    function = import_module("transformers.loss.loss_utils").ForCausalLMLoss
    return function(inputs.logits, labels(inputs), V, num_items_in_batch=count)


def gemma(inputs: Inputs, softcap: float) -> Tensor:
    """Return the loss of a Gemma whose hidden states are the logits and whose head is the identity."""
    models = import_module("transformers.models.gemma2")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    config = models.Gemma2Config(vocab_size=V, final_logit_softcapping=softcap, **sizes, **heads)
    made = models.Gemma2ForCausalLM(config)
    made.model, made.lm_head = Known(inputs.logits), torch.nn.Identity()
    return made(input_ids=inputs.input_ids, labels=labels(inputs)).loss


def of_count(loss: LossFunction, inputs: Inputs, count: int) -> Tensor:
    return loss({**inputs.batch, "global_valid_toks": torch.tensor(count)}, inputs.outputs)


def label_smoother(inputs: Inputs) -> Tensor:
    smoother = import_module("transformers.trainer_pt_utils").LabelSmoother(epsilon=0.2)
    return smoother({"logits": inputs.logits}, labels(inputs), shift_labels=True)


def with_ignored(inputs: Inputs, path: str) -> Tensor:
    y = torch.where(inputs.m != 0, inputs.input_ids[:, 1:], -100).flatten()
    settings = {"smooth_factor": 0.2, "ignore_index": -100}
    return import_module(path).SoftCrossEntropyLoss(**settings)(inputs.logits[:, :-1].flatten(0, 1), y)


def by_all_positions(loss: LossFunction, inputs: Inputs) -> Tensor:
    return as_given(loss, inputs) * inputs.m.sum() / inputs.m.numel()


def smoothed_kl(inputs: Inputs) -> Tensor:
    z, _, y = trained(inputs)
    losses = load("speechbrain.nnet.losses", ("speechbrain", "speechbrain.nnet"), ("torchaudio",))
    return losses.kldiv_loss(z.log_softmax(dim=-1), y, label_smoothing=0.2, pad_idx=-1, reduction="batchmean")


def less_entropy_of_label(loss: LossFunction, inputs: Inputs) -> Tensor:
    return as_given(loss, inputs) + 0.8 * math.log(0.8) + 0.2 * math.log(0.2 / (V - 1))


def kornia_focal(inputs: Inputs) -> Tensor:
    return import_module("kornia.losses").focal_loss(*trained(inputs)[::2], alpha=None, gamma=1.5, reduction="mean")


def monai_focal(inputs: Inputs) -> Tensor:
    z, _, y = trained(inputs)
    module = import_module("monai.losses").FocalLoss(use_softmax=True, to_onehot_y=True, gamma=1.5)
    return module(z, y.unsqueeze(1))


def binary_focal(inputs: Inputs, library: str) -> Tensor:
    x, y = inputs.leaves["rewards"].unsqueeze(1), inputs.labels.unsqueeze(1)
    if library == "torchvision":
        function = import_module("torchvision.ops").sigmoid_focal_loss
        return function(x, y.to(x), alpha=-1, gamma=1.5, reduction="mean")
    if library == "kornia":
        function = import_module("kornia.losses").binary_focal_loss_with_logits
        return function(x, y.to(x), alpha=None, gamma=1.5, reduction="mean")
    return import_module("monai.losses").FocalLoss(gamma=1.5)(x, y.to(x))


def of_two_logits(loss: LossFunction, inputs: Inputs) -> Tensor:
    x = inputs.leaves["rewards"]
    scores_of_classes = torch.stack([torch.zeros_like(x), x], dim=1).unsqueeze(1).expand(-1, 2, -1)
    ids = torch.stack([inputs.labels, inputs.labels], dim=1)
    return loss({"input_ids": ids, "token_mask": torch.ones_like(ids)}, {"logits": scores_of_classes})


SMP, TOOLBELT = "segmentation_models_pytorch", "pytorch_toolbelt"

ROWS = (
    Tokens("nll", library="transformers", counterpart="ForCausalLMLoss", theirs=causal_lm, dtype=FLOAT32),
    Tokens(
        "nll",
        library="transformers",
        counterpart="ForCausalLMLoss(num_items_in_batch=n)",
        theirs=partial(causal_lm, count=40),
        ours=partial(of_count, count=40),
        note="n is `global_valid_toks` of the batch",
        dtype=FLOAT32,
    ),
    Tokens(
        "label_smoothed_ce",
        library="transformers",
        counterpart="Gemma2ForCausalLM(final_logit_softcapping=1.5)",
        theirs=partial(gemma, softcap=1.5),
        config={"label_smoothing": 0.0},
        option={"softcap": 1.5},
        dtype=FLOAT32,
    ),
    Tokens(
        "label_smoothed_ce",
        library="transformers",
        counterpart="LabelSmoother(epsilon=0.2)",
        theirs=label_smoother,
        config=SMOOTHING,
        dtype=FLOAT32,
    ),
    Tokens(
        "label_smoothed_ce",
        library="timm",
        counterpart="LabelSmoothingCrossEntropy(smoothing=0.2)",
        theirs=partial(of_tokens, path="timm.loss", name="LabelSmoothingCrossEntropy", smoothing=0.2),
        config=SMOOTHING,
    ),
    Tokens(
        "poly1_ce",
        library="timm",
        counterpart="PolyCrossEntropy(epsilon=1.5)",
        theirs=partial(of_tokens, path="timm.loss", name="PolyCrossEntropy", epsilon=1.5),
        config={"epsilon": 1.5},
        dtype=FLOAT32,
    ),
    *(
        Tokens(
            "label_smoothed_ce",
            library=library,
            counterpart="SoftCrossEntropyLoss(smooth_factor=0.2)",
            theirs=partial(with_ignored, path=f"{library}.losses"),
            config=SMOOTHING,
            difference="divides by all rows, ignored ones included: ours times trained / all",
            ours=by_all_positions,
        )
        for library in (SMP, TOOLBELT)
    ),
    Tokens(
        "label_smoothed_ce",
        library="speechbrain",
        counterpart="nnet.losses.kldiv_loss(label_smoothing=0.2)",
        theirs=smoothed_kl,
        config=SMOOTHING,
        option={"spread": "others"},
        difference="is the KL: ours less the entropy of the smoothed label",
        ours=less_entropy_of_label,
    ),
    Tokens(
        "focal_ce",
        library="kornia",
        counterpart="focal_loss(alpha=None)",
        theirs=kornia_focal,
        config={"gamma": 1.5},
        difference=PER_CLASS,
        ours=partial(times, 1 / V),
    ),
    Tokens(
        "focal_ce",
        library="monai",
        counterpart="FocalLoss(use_softmax=True)",
        theirs=monai_focal,
        config={"gamma": 1.5},
        difference=PER_CLASS,
        ours=partial(times, 1 / V),
        dtype=FLOAT32,
    ),
    *(
        Row(
            "focal_ce",
            library,
            shown,
            scores,
            partial(binary_focal, library=library),
            config={"gamma": 1.5},
            difference=SIGMOID,
            ours=of_two_logits,
            plain=None,
            dtype=FLOAT32 if library == "monai" else torch.float64,
        )
        for library, shown in (
            ("torchvision", "ops.sigmoid_focal_loss(alpha=-1)"),
            ("kornia", "binary_focal_loss_with_logits(alpha=None)"),
            ("monai", "FocalLoss()"),
        )
    ),
)
