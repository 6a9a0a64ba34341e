"""What every distillation loss obeys, whatever its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, registry
from tests.reference.cases import Tensors, rows_of, value_and_gradient
from tests.reference.distillation.extended import extended_case
from tests.reference.test_laws import poisoned

DIVERGENCES = (
    "soft_ce",
    "generalized_jsd",
    "skew_forward_kl",
    "skew_reverse_kl",
    "tvd",
    "hinton_kd",
    "topk_renorm",
    "zero_outside_topk",
    "tail_bucket",
    "cosine_distill",
    "uld",
    "hybrid_uld",
)
SAMPLED = ("minillm", "opd_sampled", "iw_opd", "sdft", "sdpo")
NAMES = (*DIVERGENCES, *SAMPLED)
# A setting with which the loss looks at more of the batch than by default.
MORE: dict[str, dict[str, Any]] = {
    "tail_bucket": {"k": 2},
    "topk_renorm": {"k": 2, "kl_type": "mixed"},
    "zero_outside_topk": {"k": 2, "kl_type": "reverse"},
    "cosine_distill": {"hard_weight": 1.0},
    "uld": {"crossentropy_weight": 1.0},
    "hybrid_uld": {"vocabulary_map": [2, -1, 0, 5, -1]},
    "sdpo": {"distillation_weight": 0.5},
}
# 0 with gradient 0 where student and teacher agree.
VANISHING = tuple(sorted(set(DIVERGENCES) - {"soft_ce", "hinton_kd", "uld", "hybrid_uld", "cosine_distill"}))


def usual(name: str, seed: int, **kwargs: Any) -> tuple[Tensors, Tensors]:
    return extended_case(seed, other_vocabulary=7 if "uld" in name else 0, **kwargs)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -1e10])
@pytest.mark.parametrize("name", NAMES)
def test_masked_content_reaches_nothing(name: str, poison: float) -> None:
    batch, outputs = usual(name, 3)
    loss = registry.create(name, MORE.get(name, {}))
    value, gradient = value_and_gradient(loss, batch, outputs, "logits")
    got = value_and_gradient(loss, *poisoned(name, batch, outputs, poison), "logits")
    assert torch.equal(got[0], value)
    assert torch.equal(got[1], gradient)
    assert gradient.abs().sum() > 0
    nowhere = (batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]) == 0
    assert gradient[:, :-1][nowhere].abs().sum() == gradient[:, -1].abs().sum() == 0


@pytest.mark.parametrize("masked", ["sample_mask", "token_mask"])
@pytest.mark.parametrize("name", NAMES)
def test_all_masked_is_zero_with_the_graph_attached(name: str, masked: str) -> None:
    batch, outputs = usual(name, 5)
    batch[masked] = torch.zeros_like(batch[masked])
    value, gradient = value_and_gradient(registry.create(name, MORE.get(name, {})), batch, outputs, "logits")
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", NAMES)
def test_one_token_wide_batch_is_zero(name: str) -> None:
    batch, outputs = usual(name, 5)
    narrow = {field: x[:, :1] if x.dim() > 1 and "pairs" not in field else x for field, x in batch.items()}
    assert value_and_gradient(name, narrow, {"logits": outputs["logits"][:, :1]}, "logits")[0].item() == 0


@pytest.mark.parametrize("name", NAMES)
def test_microbatches_add_up(name: str) -> None:
    batch, outputs = usual(name, 7, sample_mask="floats", counts=True)
    loss = registry.create(name, MORE.get(name, {}))
    whole = value_and_gradient(loss, batch, outputs, "logits")
    parts = [
        value_and_gradient(loss, rows_of(batch, start, stop), rows_of(outputs, start, stop), "logits")
        for start, stop in ((0, 1), (1, 4))
    ]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([parts[0][1], parts[1][1]]), whole[1], rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_student_receives_gradient(name: str) -> None:
    batch, outputs = usual(name, 8)
    leaves = {field: x.requires_grad_() if x.is_floating_point() else x for field, x in batch.items()}
    loss = registry.create(name, MORE.get(name, {}))
    value = loss.compute_loss(leaves, {"logits": outputs["logits"].requires_grad_()})
    assert isinstance(value, torch.Tensor)
    value.backward()  # type: ignore[no-untyped-call]
    assert [field for field, x in leaves.items() if x.grad is not None] == []


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"cosine_distill"}))
def test_blind_to_a_constant_added_to_a_position(name: str) -> None:
    batch, outputs = usual(name, 9)
    loss = registry.create(name, MORE.get(name, {}))
    shift = torch.randn(4, 6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = batch | {"teacher_logits": batch["teacher_logits"] - 2 * shift}
    got = value_and_gradient(loss, moved, {"logits": outputs["logits"] + shift}, "logits")
    expected = value_and_gradient(loss, batch, outputs, "logits")
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", VANISHING)
def test_nothing_to_learn_where_both_agree(name: str) -> None:
    batch, _ = usual(name, 1)
    if "topk" in name:
        del batch["teacher_topk_logits"], batch["teacher_topk_indices"]
    value, gradient = value_and_gradient(name, batch, {"logits": batch["teacher_logits"]}, "logits")
    assert abs(value.item()) < 1e-15
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-16)


@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("name", NAMES)
def test_saturated_logits_stay_finite_in_float32(name: str, scale: float) -> None:
    batch, outputs = usual(name, 10, dtype=torch.float32)
    loss = registry.create(name, MORE.get(name, {}))
    student = scale * outputs["logits"]
    teacher = scale * batch["teacher_logits"]
    for z_p, z_q in ((teacher, student), (teacher / scale, student), (teacher, student / scale), (-teacher, -student)):
        value, gradient = value_and_gradient(loss, batch | {"teacher_logits": z_p}, {"logits": z_q}, "logits")
        assert math.isfinite(value)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_widened(name: str, dtype: torch.dtype) -> None:
    batch, outputs = usual(name, 11, dtype=dtype)
    loss = registry.create(name, MORE.get(name, {}))
    value, gradient = value_and_gradient(loss, batch, outputs, "logits")
    wide = {field: x.float() if x.is_floating_point() else x for field, x in batch.items()}
    expected, _ = value_and_gradient(loss, wide, {"logits": outputs["logits"].float()}, "logits")
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_key_and_temperature_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown config key 'betta'"):
        registry.create(name, {"betta": 1.0})
    if name not in ("cosine_distill", "opd_sampled", "iw_opd", "sdpo"):
        with pytest.raises(ConfigError, match="temperature=0 is out of range; expected a number above 0"):
            registry.create(name, {"temperature": 0})
