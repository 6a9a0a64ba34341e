"""What every reference loss obeys, whatever its formula."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import Tensor

import loss_reference
from loss_reference import LossFunction, ModelOutputs, registry
from tests.reference.cases import (
    ALL_LOSSES,
    PAIR_LOSSES,
    READS_LOGPROBS,
    TOKEN_LOSSES,
    Tensors,
    case,
    case_for,
    rows_of,
    trainable,
    value_and_gradient,
)
from tests.reference.companions import read_at

POISON = (math.nan, math.inf, -math.inf, 1e10, -1e10)


def test_every_registered_class_is_exported() -> None:
    for name in ALL_LOSSES:
        cls = registry.get(name)
        assert getattr(loss_reference, cls.__name__) is cls
        assert cls.__name__ in loss_reference.__all__


@pytest.mark.parametrize(("alias", "name"), [("sft", "nll"), ("contrastive", "pairwise_contrastive")])
def test_aliases(alias: str, name: str) -> None:
    assert registry.get(alias) is registry.get(name)


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_contract_lists_every_setting_with_legal_values(name: str) -> None:
    loss = registry.create(name)
    settings = {key for base in type(loss).__mro__ for key, x in vars(base).items() if type(x).__name__ == "Setting"}
    assert set(loss.contract.options) == settings
    for key, option in loss.contract.options.items():
        assert len(option.values) >= 2 or key == "rolled_reference"  # another way to be fed, not another loss
        for value in option.values:
            registry.create(name, read_at(type(loss), key, value))


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_unknown_key_is_refused(name: str) -> None:
    with pytest.raises(loss_reference.ConfigError, match="unknown config key 'betta'"):
        registry.create(name, {"betta": 1.0})


def poisoned(name: str, batch: Tensors, outputs: Tensors, poison: float) -> tuple[Tensors, Tensors]:
    """Return the case with ``poison`` at every position of weight 0, in every tensor."""
    absent = batch["sample_mask"] == 0
    masked = (batch["token_mask"] == 0) | absent.unsqueeze(1)
    masked[:, 0] = True

    def spoil(x: Tensor, where: Tensor) -> Tensor:
        where = where.reshape(where.shape + (1,) * (x.dim() - where.dim()))
        return x.masked_fill(where, poison if x.is_floating_point() else -7)

    ahead = torch.cat([masked[:, 1:], torch.ones_like(absent).unsqueeze(1)], dim=1)  # logits at t speak of token t+1
    at_target = {"logits": ahead, "teacher_logits": ahead, "teacher_topk_logits": ahead, "teacher_topk_indices": ahead}
    per_row = {"rewards": absent, "embeddings": absent, "next_token_logprobs": masked[:, 1:]}
    where = at_target | per_row
    constant = (
        "sample_mask",
        "token_mask",
        "positive_pairs",
        "negative_pairs",
        "global_valid_toks",
        "global_valid_seqs",
    )
    bad_batch = {k: x if k in constant else spoil(x, where.get(k, masked)) for k, x in batch.items()}
    return bad_batch, {k: spoil(x, where.get(k, masked)) for k, x in outputs.items()}


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("source", ["next_token_logprobs", "logits"])
@pytest.mark.parametrize("name", ALL_LOSSES)
def test_masked_content_reaches_nothing(name: str, source: str, poison: float) -> None:
    if source == "next_token_logprobs" and name not in READS_LOGPROBS:
        source = "logits"
    batch, outputs = case(3, source=source)
    field = trainable(name, outputs)
    value, gradient = value_and_gradient(name, batch, outputs, field)
    bad_batch, bad_outputs = poisoned(name, batch, outputs, poison)
    bad_value, bad_gradient = value_and_gradient(name, bad_batch, bad_outputs, field)
    assert torch.equal(value, bad_value)
    assert torch.equal(gradient, bad_gradient)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "mixed_kl"])
def test_masked_content_reaches_nothing_with_a_topk_teacher(name: str, poison: float) -> None:
    batch, outputs = case(4, source="logits")
    del batch["teacher_logits"]
    expected = value_and_gradient(name, batch, outputs, "logits")
    got = value_and_gradient(name, *poisoned(name, batch, outputs, poison), "logits")
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("poison", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ALL_LOSSES)
def test_all_masked_is_zero_with_the_graph_attached(name: str, poison: float) -> None:
    batch, outputs = case_for(name, 5)
    batch["sample_mask"] = torch.zeros(4)
    value, gradient = value_and_gradient(name, *poisoned(name, batch, outputs, poison), trainable(name, outputs))
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_no_trained_token_is_zero(name: str) -> None:
    batch, outputs = case_for(name, 5)
    batch["token_mask"] = torch.zeros(4, 6)
    value, gradient = value_and_gradient(name, batch, outputs, trainable(name, outputs))
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_one_token_wide_batch_is_zero(name: str) -> None:
    batch, outputs = case_for(name, 5, width=3)
    narrow = {k: x[:, :1] if x.dim() > 1 and "pairs" not in k else x for k, x in batch.items()}
    few = {k: x[:, :0] if k == "next_token_logprobs" else x[:, :1] for k, x in outputs.items() if x.dim() > 1}
    value, _ = value_and_gradient(name, narrow, few, trainable(name, outputs))
    assert value.item() == 0


@pytest.mark.parametrize("sample_mask", ["zeros", "floats"])
@pytest.mark.parametrize("name", TOKEN_LOSSES + PAIR_LOSSES)
def test_microbatches_add_up_with_global_counts(name: str, sample_mask: str) -> None:
    batch, outputs = case_for(name, 6, counts=True, sample_mask=sample_mask)
    field = trainable(name, outputs)
    whole, gradient = value_and_gradient(name, batch, outputs, field)
    parts = [value_and_gradient(name, rows_of(batch, a, b), rows_of(outputs, a, b), field) for a, b in [(0, 2), (2, 4)]]
    torch.testing.assert_close(sum(value for value, _ in parts), whole)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), gradient)


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_weight_zero_is_absent_and_weight_two_is_twice(name: str) -> None:
    batch, outputs = case_for(name, 7, sample_mask=None)
    field = trainable(name, outputs)
    batch["sample_mask"] = torch.tensor([1.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    repeated = torch.tensor([0, 1, 1, 3])
    plain = {k: x[repeated] for k, x in batch.items() if "pairs" not in k}
    plain["sample_mask"] = torch.ones(4)
    expected, _ = value_and_gradient(name, plain, {k: x[repeated] for k, x in outputs.items()}, field)
    value, gradient = value_and_gradient(name, batch, outputs, field)
    torch.testing.assert_close(value, expected)
    assert gradient[2].abs().sum() == 0


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_constants_get_no_gradient_and_inputs_are_left_alone(name: str) -> None:
    batch, outputs = case_for(name, 8, counts=True)
    constants = {k: x.requires_grad_() if x.is_floating_point() else x for k, x in batch.items()}
    before = {k: x.detach().clone() for k, x in (batch | outputs).items()}
    leaves = ModelOutputs({k: x.requires_grad_() for k, x in outputs.items()})
    value = registry.create(name).compute_loss(constants, leaves)
    assert isinstance(value, Tensor)
    assert value.shape == ()
    value.backward()  # type: ignore[no-untyped-call]
    assert all(x.grad is None for x in constants.values())
    assert leaves[trainable(name, outputs)].grad is not None
    assert all(torch.equal(before[k], x) for k, x in (batch | outputs).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL_LOSSES)
def test_narrow_inputs_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    batch, outputs = case_for(name, 9, dtype=dtype)
    field = trainable(name, outputs)
    value, gradient = value_and_gradient(name, batch, outputs, field)
    wide_batch = {k: x.double() if x.is_floating_point() else x for k, x in batch.items()}
    exact, exact_gradient = value_and_gradient(name, wide_batch, {k: x.double() for k, x in outputs.items()}, field)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), exact, rtol=2e-6, atol=1e-7)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=4 * eps + 2e-6, atol=eps * 1e-2 + 1e-7)


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_wide_constants_do_not_change_the_dtype_of_the_loss(name: str) -> None:
    batch, outputs = case_for(name, 9)
    value, _ = value_and_gradient(name, batch, {k: x.float() for k, x in outputs.items()}, trainable(name, outputs))
    assert value.dtype == torch.float32


@pytest.mark.parametrize("name", READS_LOGPROBS)
def test_logits_and_their_logprobs_agree(name: str) -> None:
    batch, outputs = case(10, source="logits")
    lp = outputs["logits"].log_softmax(-1)[:, :-1].gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    from_logits, _ = value_and_gradient(name, batch, outputs, "logits")
    from_logprobs, _ = value_and_gradient(name, batch, {"next_token_logprobs": lp}, "next_token_logprobs")
    torch.testing.assert_close(from_logits, from_logprobs, rtol=1e-13, atol=0)


WRONG_SHAPES = [
    (
        "nll",
        "next_token_logprobs",
        (4, 6),
        "next_token_logprobs has shape (4, 6); expected (4, 5), beside token_mask of",
    ),
    (
        "nll",
        "token_mask",
        (4, 1),
        "next_token_logprobs has shape (4, 5); expected (4, 0), beside token_mask of shape (4, 1)",
    ),
    ("nll", "sample_mask", (4, 1), "sample_mask has shape (4, 1); expected (4,), one entry per row"),
    ("nll", "sample_mask", (1,), "sample_mask has shape (1,); expected (4,), one entry per row"),
    ("nll", "global_valid_toks", (4,), "global_valid_toks has shape (4,); expected (), one number"),
    ("grpo", "global_valid_seqs", (1,), "global_valid_seqs has shape (1,); expected (), one number"),
    ("dpo", "global_valid_seqs", (1,), "global_valid_seqs has shape (1,); expected (), one number"),
    ("dpo", "reference_policy_logprobs", (1, 6), "reference_policy_logprobs has shape (1, 6); expected (4, 6)"),
    ("ppo_clip", "advantages", (4,), "advantages has shape (4,); expected (4, 6), one entry per token"),
    ("ppo_clip", "advantages", (4, 1), "advantages has shape (4, 1); expected (4, 6), one entry per token"),
    ("ppo_clip", "prev_logprobs", (4, 5), "prev_logprobs has shape (4, 5); expected (4, 6), one entry per token"),
    ("grpo", "reference_policy_logprobs", (1, 6), "reference_policy_logprobs has shape (1, 6); expected (4, 6)"),
    ("value_mse", "values", (4, 6, 1), "values has shape (4, 6, 1); expected (4, 6), that of token_mask"),
    ("value_mse", "returns", (4, 1), "returns has shape (4, 1); expected (4, 6), one entry per token"),
    ("bradley_terry", "rewards", (4, 1), "rewards has shape (4, 1); expected (B,), one score per row"),
    ("forward_kl", "logits", (4, 6), "logits has shape (4, 6); expected (4, 6, V), V scores per entry of token_mask"),
    (
        "reverse_kl",
        "teacher_logits",
        (4, 6, 4),
        "teacher_logits has shape (4, 6, 4); expected (4, 6, 5), that of logits",
    ),
    ("infonce", "embeddings", (4,), "embeddings has shape (4,); expected (B, D), one vector per row"),
    ("infonce", "positive_pairs", (5,), "positive_pairs has shape (5,); expected (N, 2), pairs of row numbers"),
    ("pairwise_contrastive", "negative_pairs", (1, 2), "negative_pairs has shape (1, 2); expected (5, 2), that of pos"),
]


@pytest.mark.parametrize(("name", "field", "shape", "message"), WRONG_SHAPES)
def test_a_wrong_shape_is_refused_by_name(name: str, field: str, shape: tuple[int, ...], message: str) -> None:
    batch, outputs = case_for(name, 11)
    target = outputs if field in outputs else batch
    target[field] = torch.ones(shape, dtype=torch.int64 if "pairs" in field else torch.float64)
    with pytest.raises(ValueError, match="shape") as error:
        registry.create(name).compute_loss(batch, outputs)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", READS_LOGPROBS)
def test_missing_logprobs_are_named(name: str) -> None:
    batch, _ = case(12)
    with pytest.raises(KeyError, match="needs 'next_token_logprobs' or 'logits'"):
        registry.create(name).compute_loss(batch, {})


@pytest.mark.parametrize(("token", "named"), [(5, "5"), (-100, "-100")])
def test_token_outside_the_vocabulary(token: int, named: str) -> None:
    batch, outputs = case(12, source="logits", sample_mask=None)
    batch["token_mask"][:] = 1
    batch["input_ids"][1, 2] = token
    with pytest.raises(ValueError, match=f"input_ids holds token id {named}, outside the vocabulary of 5 logits"):
        registry.create("nll").compute_loss(batch, outputs)


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_pickle_and_components(name: str) -> None:
    batch, outputs = case_for(name, 13)
    loss: LossFunction = pickle.loads(pickle.dumps(registry.create(name)))
    parts = loss.components(batch, outputs)
    torch.testing.assert_close(torch.stack([*parts.values()]).sum(), loss.compute_loss(batch, outputs))


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_compiles_into_one_graph(name: str) -> None:
    batch, outputs = case(14, source="logits")
    loss = registry.create(name)
    compiled = torch.compile(loss.compute_loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch, outputs), loss.compute_loss(batch, outputs))
