"""Logits of -inf, as top-k and top-p filters leave behind: 0 log 0 is 0, and a divergence is infinite only by definition."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import registry
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.distillation.test_distillation_laws import MORE, NAMES, usual

FULL = ("forward_kl", "reverse_kl", "mixed_kl")
# KL(p || q) where q is 0 and p is not, and the reverse.
INFINITE = {
    "student": {"forward_kl", "mixed_kl", "soft_ce", "hinton_kd", "topk_renorm", "zero_outside_topk", "tail_bucket"},
    "teacher": {"reverse_kl", "mixed_kl", "minillm"},
    "both": set[str](),
}


def filtered(name: str, who: str, dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    """Return a case in which ``who`` finds token 1 impossible everywhere; it was never sampled."""
    batch, outputs = usual(name, 3, dtype=dtype, sample_mask=None)
    if "topk" in name:
        del batch["teacher_topk_logits"], batch["teacher_topk_indices"]
    if who != "student":
        batch["teacher_logits"][..., 1] = -math.inf
    if who != "teacher":
        outputs["logits"][..., 1] = -math.inf
    batch["input_ids"] = torch.where(batch["input_ids"] == 1, 2, batch["input_ids"])
    return batch, outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("who", INFINITE)
@pytest.mark.parametrize("name", [*FULL, *NAMES])
def test_infinite_where_the_formula_is_and_nowhere_else(name: str, who: str, dtype: torch.dtype) -> None:
    value, gradient = value_and_gradient(name, *filtered(name, who, dtype), "logits")
    if name in INFINITE[who]:
        assert value == math.inf
        return
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0
    if who != "teacher":
        assert gradient[..., 1].abs().sum() == 0  # a probability of 0 cannot be raised


@pytest.mark.parametrize("name", sorted(set(MORE) - {"sdpo"}))
def test_the_same_with_the_settings_that_look_at_more(name: str) -> None:
    loss = registry.create(name, MORE[name])
    value, gradient = value_and_gradient(loss, *filtered(name, "both", torch.float32), "logits")
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()
