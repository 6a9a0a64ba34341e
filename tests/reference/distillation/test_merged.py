"""Tokens that are merged into the piece of text they spell, as GOLD does it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, registry
from loss_reference.distillation.merged import merged
from tests.oracles import distillation_vocabularies as oracle
from tests.reference.agreement import assert_agrees
from tests.reference.cases import Tensors, rows_of, value_and_gradient
from tests.reference.distillation.extended import chunked_case, extended_case
from tests.reference.test_against_oracles import Config


def spelled_case(seed: int, **kwargs: Any) -> tuple[Tensors, Tensors]:
    """Two tokenizations in chunks, and the tokens of both; ids of positions that count nowhere lie outside."""
    batch, outputs = chunked_case(seed, **kwargs)
    g = torch.Generator().manual_seed(seed)
    for name, scores in (("input_ids", outputs["logits"]), ("teacher_input_ids", batch["teacher_logits"])):
        batch[name] = torch.randint(scores.shape[-1], scores.shape[:2], generator=g)
    return batch, outputs


CONFIGS: list[Config] = [
    {},
    {"beta": 0.3, "temperature": 0.5},
    {"vocabulary_map": [2, -1, 0, -1, 4]},
    {"vocabulary_map": [-1] * 5},
]


@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize("config", CONFIGS)
def test_value_and_gradient(config: Config, sample_mask: str | None) -> None:
    for seed in (1, 2, 3):
        batch, outputs = spelled_case(seed, sample_mask=sample_mask)
        if seed == 3:
            batch["global_valid_seqs"] = torch.tensor(7.0, dtype=torch.float64)
        loss = registry.create("hybrid_uld", {**config, "merge": "observed"})
        value, gradient = value_and_gradient(loss, batch, outputs, "logits")
        finite = {"logits": outputs["logits"].nan_to_num(0.0)}
        assert torch.equal(value_and_gradient(loss, batch, finite, "logits")[0], value)
        arrays = [{key: x.numpy() for key, x in side.items()} for side in (batch, finite)]
        assert value.item() == pytest.approx(oracle.hybrid_uld_merged(*arrays, **config), rel=1e-10)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("config", CONFIGS)
def test_gradient_by_differences(config: Config) -> None:
    def merging(*case: Any, merge: str, **settings: Any) -> float:
        assert merge == "observed"
        return oracle.hybrid_uld_merged(*case, **settings)

    batch, outputs = spelled_case(4, sample_mask="floats")
    outputs = {"logits": outputs["logits"].nan_to_num(0.0)}
    assert_agrees("hybrid_uld", merging, {**config, "merge": "observed"}, batch, outputs)


def test_chunks_of_one_position_are_the_plain_loss() -> None:
    batch, outputs = extended_case(5, other_vocabulary=4, sample_mask="floats", counts=True)
    expected = value_and_gradient("hybrid_uld", batch, outputs, "logits")
    trained = batch["token_mask"][:, 1:] != 0
    each = torch.full((4, 6), -1)
    each[:, :-1] = torch.where(trained, torch.arange(5), -1)
    batch |= {"student_chunk_ids": each, "teacher_chunk_ids": each, "chunk_valid": torch.ones(4, 5).double()}
    batch["teacher_input_ids"] = torch.zeros_like(batch["input_ids"])
    del batch["token_mask"]
    loss = registry.create("hybrid_uld", {"merge": "observed"})
    torch.testing.assert_close(value_and_gradient(loss, batch, outputs, "logits"), expected)


def test_microbatches_add_up() -> None:
    batch, outputs = spelled_case(6, sample_mask="floats")
    batch["global_valid_seqs"] = torch.tensor(5.0)
    loss = registry.create("hybrid_uld", {"merge": "observed"})
    whole = value_and_gradient(loss, batch, outputs, "logits")[0]
    parts = [
        value_and_gradient(loss, rows_of(batch, a, b), rows_of(outputs, a, b), "logits")[0] for a, b in ((0, 1), (1, 3))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_a_later_token_that_cannot_be_costs_what_is_left() -> None:
    """Its conditional probability counts as 1e-8, and has no gradient there."""
    log_p = torch.tensor([[[0.5, 0.5], [0.0, 1.0]]]).log().requires_grad_()
    y, side = torch.tensor([[0, 0]]), torch.tensor([[0, 0]])
    got = merged(log_p, y, side, 1)
    torch.testing.assert_close(got, torch.full((1, 1, 2), math.log(0.5e-8)))
    (gradient,) = torch.autograd.grad(got.sum(), log_p)
    assert gradient.tolist() == [[[1.0, 1.0], [0.0, 0.0]]]


def test_errors() -> None:
    batch, outputs = spelled_case(7)
    loss = registry.create("hybrid_uld", {"merge": "observed"})
    assert loss.contract.fields["teacher_input_ids"].shape == "B teacher"
    outside = batch | {"teacher_input_ids": batch["teacher_input_ids"] + 6}
    with pytest.raises(ValueError, match="teacher_input_ids"):
        loss.compute_loss(outside, outputs)
    for name in ("student_chunk_ids", "teacher_chunk_ids", "input_ids", "teacher_input_ids"):
        with pytest.raises(ValueError, match=name):
            loss.compute_loss(batch | {name: batch[name][:, 1:]}, outputs)
    with pytest.raises(ConfigError, match="merge='mean'; expected one of 'none', 'observed'"):
        registry.create("hybrid_uld", {"merge": "mean"})
