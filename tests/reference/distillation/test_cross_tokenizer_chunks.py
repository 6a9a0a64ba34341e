"""Cross-tokenizer distillation: what counts, what it is divided by, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, registry
from tests.reference.cases import rows_of, value_and_gradient
from tests.reference.distillation.extended import chunked_case

NAMES = ("xtoken_pkl", "xtoken_gold")


@pytest.mark.parametrize("name", NAMES)
def test_what_counts_nowhere_reaches_nothing(name: str) -> None:
    batch, outputs = chunked_case(2, U=5)
    value, gradient = value_and_gradient(name, batch, outputs, "logits")
    counted = torch.zeros(batch["student_chunk_ids"].shape, dtype=torch.bool)
    teacher = torch.zeros(batch["teacher_chunk_ids"].shape, dtype=torch.bool)
    for b in range(3):
        for c in range(3):
            s, t = batch["student_chunk_ids"][b] == c, batch["teacher_chunk_ids"][b] == c
            if batch["chunk_valid"][b, c] * batch["sample_mask"][b] and s.any() and t.any():
                counted[b] |= s
                teacher[b] |= t
    assert not counted.all()
    assert (gradient[~counted] == 0).all()
    assert (gradient[counted] != 0).any(-1).all()
    bad = batch | {"teacher_logits": batch["teacher_logits"].masked_fill(~teacher[..., None], math.inf)}
    bad["chunk_valid"] = batch["chunk_valid"].masked_fill((batch["sample_mask"] == 0)[:, None], math.nan)
    got = value_and_gradient(
        name, bad, {"logits": outputs["logits"].masked_fill(~counted[..., None], math.nan)}, "logits"
    )
    assert torch.equal(got[0], value)
    assert torch.equal(got[1], gradient)


@pytest.mark.parametrize("nothing", ["chunk_valid", "sample_mask", "student_chunk_ids"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_left_is_zero_with_the_graph_attached(name: str, nothing: str) -> None:
    batch, outputs = chunked_case(3)
    batch[nothing] = torch.zeros_like(batch[nothing]) - (1 if nothing == "student_chunk_ids" else 0)
    value, gradient = value_and_gradient(name, batch, outputs, "logits")
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", NAMES)
def test_microbatches_add_up_unless_k_is_below_the_vocabulary(name: str) -> None:
    batch, outputs = chunked_case(4, U=5, sample_mask="floats")
    batch["global_valid_chunks"] = torch.tensor(7.0)
    whole = value_and_gradient(name, batch, outputs, "logits")[0]
    parts = [
        value_and_gradient(name, rows_of(batch, a, b), rows_of(outputs, a, b), "logits")[0] for a, b in ((0, 1), (1, 3))
    ]
    assert sum(x.item() for x in parts) == pytest.approx(whole.item(), rel=1e-12)


def test_pkl_looks_at_the_same_k_tokens_in_the_whole_batch() -> None:
    batch, outputs = chunked_case(5, U=5, sample_mask=None)
    loss = registry.create("xtoken_pkl", {"k": 2})
    assert loss.contract.coupled
    alone = rows_of(batch, 0, 1), rows_of(outputs, 0, 1)
    before = value_and_gradient(loss, *alone, "logits")[1]
    batch["teacher_logits"][1:, :, 0] += 50.0  # now token 0 is looked at in row 0 too
    batch["teacher_logits"][0, :, 0] = -3.0
    _, gradient = value_and_gradient(loss, batch, outputs, "logits")
    scaled = gradient[:1] / gradient[:1].abs().max() - before / before.abs().max()
    assert scaled.abs().max() > 0.05


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"projection": [[1.0]]},
            r"projection=\[\[1.0\]\]; expected a \[V, U\] tensor of finite numbers of at least 0",
        ),
        ({"projection": torch.ones(3)}, r"projection=a tensor \(3,\); expected a \[V, U\] tensor"),
        ({"projection": -torch.ones(2, 2)}, r"projection=a tensor \(2, 2\); expected a \[V, U\] tensor"),
        ({"k": 1.5}, "k=1.5; expected a whole number"),
        ({"temperature": 0.0}, "temperature=0.0 is out of range"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_config_errors(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.create(name, config)


def test_shapes_are_refused_by_name() -> None:
    batch, outputs = chunked_case(6)
    for changed, message in (
        ({"student_chunk_ids": batch["teacher_chunk_ids"]}, r"student_chunk_ids has shape \(3, 5\); expected \(3, 6\)"),
        ({"chunk_valid": torch.ones(2, 3)}, r"chunk_valid has shape \(2, 3\); expected \(3, C\), one entry per chunk"),
        ({"global_valid_chunks": torch.ones(1)}, r"global_valid_chunks has shape \(1,\); expected \(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            registry.create("xtoken_pkl").compute_loss(batch | changed, outputs)
    with pytest.raises(
        ValueError, match=r"projection has shape \(2, 2\); expected \(5, 6\), student by teacher tokens"
    ):
        registry.create("xtoken_gold", {"projection": torch.ones(2, 2)}).compute_loss(batch, outputs)
