"""Packed sequences: the loss of the padded batch, without the padding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, ModelOutputs, registry
from tests.reference.cases import Tensors, case, value_and_gradient
from tests.reference.composite.helpers import WithMetrics
from tests.reference.distillation.extended import extended_case

LENGTHS = [6, 3, 1, 4]
TOKEN_LEVEL = (
    *("input_ids", "token_mask", "reference_policy_logprobs", "prev_logprobs", "advantages", "returns"),
    *("teacher_logits", "logits", "values"),
)
# Name, config, trained field.
COMPONENTS: list[tuple[str, dict[str, Any], str]] = [
    ("nll", {}, "logits"),
    ("nll", {"aggregation": "seq_mean_token_mean"}, "next_token_logprobs"),
    ("ppo_clip", {"aggregation": "fixed", "max_length": 9}, "next_token_logprobs"),
    ("grpo", {}, "logits"),
    ("gspo", {}, "next_token_logprobs"),
    ("value_mse", {}, "values"),
    ("dpo", {"average_log_probs": True}, "next_token_logprobs"),
    ("orpo", {}, "logits"),
    ("forward_kl", {"temperature": 2.0}, "logits"),
    ("sdft", {}, "logits"),
]


def padded(seed: int, trained: str, **kwargs: Any) -> tuple[Tensors, Tensors]:
    """Four rows of different lengths; what lies behind them is NaN, and not trained on."""
    source = "logits" if trained == "values" else trained
    batch, everything = case(seed, source=source, **kwargs)
    batch["input_lengths"] = torch.tensor(LENGTHS)
    behind = torch.arange(6) >= batch["input_lengths"][:, None]
    batch["token_mask"][behind] = 0
    outputs = {trained: everything[trained]}
    if trained in ("logits", "values"):
        outputs = {
            trained: outputs[trained].masked_fill(behind.reshape(4, 6, *[1] * (outputs[trained].dim() - 2)), math.nan)
        }
    return batch, outputs


def pack(fields: Tensors, waste: int = 0) -> Tensors:
    """The token-level fields end to end, with ``waste`` positions of NaN behind the last sequence."""
    packed = {}
    for name, x in fields.items():
        packed[name] = x
        if name in TOKEN_LEVEL:
            joined = torch.cat([x[i : i + 1, :n] for i, n in enumerate(LENGTHS)], dim=1)
            empty = joined.new_full((1, waste, *joined.shape[2:]), math.nan if joined.is_floating_point() else -7)
            packed[name] = torch.cat([joined, empty], dim=1)
        elif name == "next_token_logprobs":
            between = x.new_full((1, 1), math.nan)
            rows = [part for i, n in enumerate(LENGTHS) for part in (x[i : i + 1, : n - 1], between)]
            packed[name] = torch.cat([*rows, *[between] * waste][:-1], dim=1)
    return packed


@pytest.mark.parametrize("counts", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize(("name", "config", "trained"), COMPONENTS)
def test_equals_the_padded_loss(
    name: str, config: dict[str, Any], trained: str, sample_mask: str | None, counts: bool
) -> None:
    batch, outputs = padded(1, trained, sample_mask=sample_mask, counts=counts)
    plain = {field: x for field, x in batch.items() if field != "input_lengths"}
    value, gradient = value_and_gradient(registry.create(name, config), plain, outputs, trained)
    loss = registry.create("sequence_packing", {"loss": {"type": name, **config}})
    for waste in (0, 2):
        got, of_pack = value_and_gradient(loss, pack(batch, waste), pack(outputs, waste), trained)
        torch.testing.assert_close(got, value)
        known = {trained: gradient}
        torch.testing.assert_close(of_pack.nan_to_num(), pack(known, waste)[trained].nan_to_num())
    for one_padded, other in ((batch, pack(outputs)), (pack(batch), outputs), (batch, outputs)):
        got, _ = value_and_gradient(loss, one_padded, other, trained)
        torch.testing.assert_close(got, value)


def test_shares_add_up_and_counts_are_those_of_the_batch() -> None:
    batch, outputs = padded(2, "logits", sample_mask="floats")
    loss = registry.create("sequence_packing")
    shares = loss.components(pack(batch), ModelOutputs(pack(outputs)))
    assert list(shares) == [f"sequence_{i}" for i in range(4)]
    m = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
    lp = outputs["logits"][1, :2].log_softmax(-1).gather(-1, batch["input_ids"][1, 1:3, None])[:, 0]
    torch.testing.assert_close(shares["sequence_1"], -(m[1, :2] * lp).sum() / m.sum())
    pairs = registry.create("sequence_packing", {"loss": {"type": "dpo"}})
    assert list(pairs.components(pack(batch), ModelOutputs(pack(outputs)))) == ["sequence_0", "sequence_1"]


@pytest.mark.parametrize("masked", ["token_mask", "sample_mask"])
def test_nothing_left_is_zero_with_the_graph_attached(masked: str) -> None:
    batch, outputs = padded(3, "logits")
    batch[masked] = torch.zeros_like(batch[masked])
    value, gradient = value_and_gradient("sequence_packing", pack(batch), pack(outputs), "logits")
    assert value.item() == 0
    assert gradient.abs().sum() == 0


def test_one_sequence_and_an_empty_one() -> None:
    batch, outputs = case(4, source="logits", sample_mask=None)
    lone = {field: x[1:2] for field, x in batch.items() if field in TOKEN_LEVEL} | {"input_lengths": torch.tensor([6])}
    logits = {"logits": outputs["logits"][1:2]}
    expected = value_and_gradient("nll", lone, logits, "logits")
    torch.testing.assert_close(value_and_gradient("sequence_packing", lone, logits, "logits"), expected)
    with_empty = lone | {"input_lengths": torch.tensor([0, 6, 0])}
    torch.testing.assert_close(value_and_gradient("sequence_packing", with_empty, logits, "logits"), expected)


def test_fields_outside_the_vocabulary_are_taken_from_the_contract() -> None:
    batch, outputs = extended_case(5, source="next_token_logprobs", sample_mask=None)
    batch["input_lengths"] = torch.tensor(LENGTHS)
    batch["token_mask"][torch.arange(6) >= batch["input_lengths"][:, None]] = 0
    expected = value_and_gradient("opd_sampled", batch, outputs, "next_token_logprobs")[0]
    joined = torch.cat([batch["teacher_logprobs"][i : i + 1, :n] for i, n in enumerate(LENGTHS)], dim=1)
    loss = registry.create("sequence_packing", {"loss": {"type": "opd_sampled"}})
    packed = pack(batch) | {"teacher_logprobs": joined}
    torch.testing.assert_close(value_and_gradient(loss, packed, pack(outputs), "next_token_logprobs")[0], expected)


def test_metrics_are_kept_by_sequence() -> None:
    batch, outputs = padded(6, "next_token_logprobs")
    loss = registry.create("sequence_packing")
    loss.part = WithMetrics({"value": 0.5})
    result = loss.compute_loss(pack(batch), ModelOutputs(pack(outputs)))
    assert isinstance(result, tuple)
    assert result[0].item() == 2.0
    assert sorted(result[1]) == [f"sequence_{i}/seen" for i in range(4)]


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ("infonce", "'infonce' compares rows beyond their group"),
        ("bnpo", "'bnpo' divides by counts of its own; its sum over sequences would be another loss"),
        ("dynamic_loss_scaling", "'dynamic_loss_scaling' compares rows beyond their group"),
        ("aot", "'aot' compares rows beyond their group"),
    ],
)
def test_losses_that_a_sum_would_change_are_refused(component: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.create("sequence_packing", {"loss": {"type": component}})


def test_errors() -> None:
    batch, outputs = padded(7, "logits")
    loss = registry.create("sequence_packing")
    too_long = pack(batch) | {"input_lengths": torch.tensor([6, 3, 1, 5])}
    with pytest.raises(ValueError, match="token_mask has 14 positions; sequence 3 of length 5 ends at 15"):
        loss.compute_loss(too_long, pack(outputs))
    with pytest.raises(ValueError, match=r"logits has 3 rows; expected 1 \(packed\) or 4 \(one per sequence\)"):
        loss.compute_loss(pack(batch), {"logits": outputs["logits"][:3]})
    with pytest.raises(ValueError, match="input_lengths holds -1; expected numbers of tokens, at least 0"):
        loss.compute_loss(batch | {"input_lengths": torch.tensor([6, 3, -1, 4])}, outputs)
    three = batch | {"input_lengths": torch.tensor([6, 3, 1])}
    with pytest.raises(ValueError, match="input_lengths has 3 sequences; 2 belong together, so expected a multiple"):
        registry.create("sequence_packing", {"loss": {"type": "dpo"}}).compute_loss(three, outputs)
    with pytest.raises(KeyError, match="input_lengths"):
        loss.compute_loss({field: x for field, x in batch.items() if field != "input_lengths"}, outputs)
