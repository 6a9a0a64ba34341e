"""What the policy-gradient losses and the clipped value loss obey, whatever their formula."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import Tensor

import loss_reference
from loss_reference import ConfigError, LossFunction, ModelOutputs
from tests.reference.cases import Tensors, rows_of, value_and_gradient
from tests.reference.companions import read_at
from tests.reference.policy_gradient.helpers import NAMES, POLICY, SURROGATES, cases, create, trains
from tests.reference.test_laws import POISON, poisoned

RISES_WITH_ADVANTAGE = {"reinforce", "cispo", "vespo"}


def weights(batch: Tensors) -> Tensor:
    m = batch["token_mask"][:, 1:]
    return m * batch["sample_mask"][:, None] if "sample_mask" in batch else m


@pytest.mark.parametrize("name", NAMES)
def test_exported_with_every_setting_in_the_contract(name: str) -> None:
    loss = create(name)
    assert getattr(loss_reference, type(loss).__name__) is type(loss)
    assert type(loss).__name__ in loss_reference.__all__
    settings = {key for base in type(loss).__mro__ for key, x in vars(base).items() if type(x).__name__ == "Setting"}
    assert set(loss.contract.options) == settings
    for key, option in loss.contract.options.items():
        assert len(option.values) >= 2
        for value in option.values:
            create(name, **read_at(type(loss), key, value))


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str) -> None:
    contract = create(name).contract
    assert contract.family == ("value" if name == "value_clipped" else "policy_gradient")
    assert contract.normalizer == ("local" if name == "bnpo" else "global")
    assert contract.lower_bound == (0 if name == "value_clipped" else -math.inf)
    assert contract.surrogate_gradient == (name in SURROGATES)
    by_sequence = {"dr_grpo", "sapo", "gspo", "gspo_token", "luspo", "gmpo"}
    assert contract.level == ("sequence" if name in by_sequence else "token")
    assert contract.length_normalized == (name not in {"dr_grpo", "luspo", "vespo"})
    if name in POLICY and name != "gmpo":
        penalty = {"reference_policy_kl_penalty": +1} if name == "luspo" else {}
        assert contract.direction == {"advantages": +1 if name in RISES_WITH_ADVANTAGE else -1, **penalty}


@pytest.mark.parametrize("name", NAMES)
def test_unknown_key_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown config key 'betta'"):
        create(name, betta=1.0)


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("source", ["next_token_logprobs", "logits"])
@pytest.mark.parametrize("name", NAMES)
def test_masked_content_reaches_nothing(name: str, source: str, poison: float) -> None:
    batch, outputs = cases(3, source=source)
    field, loss = trains(name, outputs), create(name)
    value, gradient = value_and_gradient(loss, batch, outputs, field)
    bad_value, bad_gradient = value_and_gradient(loss, *poisoned(name, batch, outputs, poison), field)
    assert torch.equal(value, bad_value)
    assert torch.equal(gradient, bad_gradient)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("poison", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_all_masked_is_zero_with_the_graph_attached(name: str, poison: float) -> None:
    batch, outputs = cases(5)
    batch["sample_mask"] = torch.zeros(4, dtype=torch.float64)
    value, gradient = value_and_gradient(create(name), *poisoned(name, batch, outputs, poison), trains(name, outputs))
    assert value == 0
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize("sample_mask", ["zeros", "floats"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "bnpo"])
def test_microbatches_add_up_with_global_counts(name: str, sample_mask: str) -> None:
    batch, outputs = cases(6, counts=True, sample_mask=sample_mask)
    field, loss = trains(name, outputs), create(name)
    whole, gradient = value_and_gradient(loss, batch, outputs, field)
    parts = [value_and_gradient(loss, rows_of(batch, a, b), rows_of(outputs, a, b), field) for a, b in [(0, 2), (2, 4)]]
    torch.testing.assert_close(sum(value for value, _ in parts), whole)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), gradient)


@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_is_absent_and_weight_two_is_twice(name: str) -> None:
    batch, outputs = cases(7, sample_mask=None)
    field, loss = trains(name, outputs), create(name)
    batch["sample_mask"] = torch.tensor([1.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    repeated = torch.tensor([0, 1, 1, 3])
    plain = {k: x[repeated] for k, x in batch.items() if "pairs" not in k}
    plain["sample_mask"] = torch.ones(4, dtype=torch.float64)
    expected, _ = value_and_gradient(loss, plain, {k: x[repeated] for k, x in outputs.items()}, field)
    value, gradient = value_and_gradient(loss, batch, outputs, field)
    torch.testing.assert_close(value, expected)
    assert gradient[2].abs().sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_constants_get_no_gradient_and_inputs_are_left_alone(name: str) -> None:
    batch, outputs = cases(8, counts=True)
    constants = {k: x.requires_grad_() if x.is_floating_point() else x for k, x in batch.items()}
    before = {k: x.detach().clone() for k, x in (batch | outputs).items() if k != "values"}
    leaves = ModelOutputs({k: x.requires_grad_() for k, x in outputs.items()})
    value = create(name).compute_loss(constants, leaves)
    assert isinstance(value, Tensor)
    assert value.shape == ()
    value.backward()  # type: ignore[no-untyped-call]
    assert all(x.grad is None for x in constants.values())
    assert leaves[trains(name, outputs)].grad is not None
    assert all(torch.equal(before[k], x) for k, x in (batch | outputs).items() if k != "values")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_narrow_inputs_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    batch, outputs = cases(9, dtype=dtype)
    field, loss = trains(name, outputs), create(name)
    value, gradient = value_and_gradient(loss, batch, outputs, field)
    wide_batch = {k: x.double() if x.is_floating_point() else x for k, x in batch.items()}
    exact, exact_gradient = value_and_gradient(loss, wide_batch, {k: x.double() for k, x in outputs.items()}, field)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), exact, rtol=2e-6, atol=1e-7)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=4 * eps + 4e-6, atol=eps * 1e-2 + 1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_wide_constants_do_not_change_the_dtype_of_the_loss(name: str) -> None:
    batch, outputs = cases(9)
    value, _ = value_and_gradient(
        create(name), batch, {k: x.float() for k, x in outputs.items()}, trains(name, outputs)
    )
    assert value.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_pickle_and_components(name: str) -> None:
    batch, outputs = cases(14, source="logits")
    loss: LossFunction = pickle.loads(pickle.dumps(create(name)))
    parts = loss.components(batch, outputs)
    torch.testing.assert_close(torch.stack([*parts.values()]).sum(), loss.compute_loss(batch, outputs))


@pytest.mark.parametrize("name", ["cispo", "gspo_token", "gmpo", "vespo", "value_clipped"])
def test_compiles_into_one_graph(name: str) -> None:
    torch.compiler.reset()  # torch counts graphs per function, and the losses share one
    batch, outputs = cases(14, source="logits")
    loss = create(name)
    compiled = torch.compile(loss.compute_loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch, outputs), loss.compute_loss(batch, outputs))


@pytest.mark.parametrize("field", ["advantages", "prev_logprobs"])
@pytest.mark.parametrize("name", POLICY)
def test_required_fields_and_their_shapes(name: str, field: str) -> None:
    batch, outputs = cases(11)
    needed = {"input_ids", "token_mask", "advantages"}
    needed |= set() if name in ("reinforce", "on_policy") else {"prev_logprobs"}
    few = {key: batch[key] for key in needed}
    create(name).compute_loss(few, {"next_token_logprobs": outputs["next_token_logprobs"]})
    if field in needed:
        with pytest.raises(KeyError, match=field):
            create(name).compute_loss({k: x for k, x in batch.items() if k != field}, outputs)
        with pytest.raises(ValueError, match=f"{field} has shape .4, 1.; expected .4, 6., one entry per token"):
            create(name).compute_loss(few | {field: torch.zeros(4, 1)}, outputs)


@pytest.mark.parametrize("name", POLICY)
def test_scales_with_the_advantage_and_vanishes_with_it(name: str) -> None:
    batch, outputs = cases(12, close=True)
    loss = create(name)
    value, gradient = value_and_gradient(loss, batch, outputs, "next_token_logprobs")
    more = batch | {"advantages": 5 * batch["advantages"]}
    got, got_gradient = value_and_gradient(loss, more, outputs, "next_token_logprobs")
    torch.testing.assert_close(got, 5 * value, rtol=1e-12, atol=0)
    torch.testing.assert_close(got_gradient, 5 * gradient, rtol=1e-12, atol=1e-15)
    none = batch | {"advantages": 0 * batch["advantages"]}
    got, got_gradient = value_and_gradient(loss, none, outputs, "next_token_logprobs")
    assert got == 0
    assert got_gradient.abs().sum() == 0


@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize("name", POLICY)
def test_on_policy_gradient(name: str, sample_mask: str | None) -> None:
    """At rho = 1 every token moves by -A m over the divisor of its loss, and the value is -A, -A lp or -(2 / tau) A."""
    batch, outputs = cases(13, sample_mask=sample_mask)
    lp = outputs["next_token_logprobs"] = batch["prev_logprobs"][:, 1:].clone()
    m, A = weights(batch), batch["advantages"][:, 1:]
    n = m.sum(dim=1, keepdim=True).clamp(min=1e-9)
    w = batch["sample_mask"] if "sample_mask" in batch else torch.ones(4, dtype=torch.float64)
    S, T = w.sum(), m.sum()
    share = {"dr_grpo": m / (S * 8), "luspo": m / S} | dict.fromkeys(
        ("sapo", "gspo", "gspo_token", "gmpo"), m * w[:, None] / (n * S)
    )
    expected = share.get(name, m / T)
    moves_by = (m * A).sum(dim=1, keepdim=True) / n if name in ("gspo", "luspo", "gmpo") else A
    value, gradient = value_and_gradient(create(name), batch, outputs, "next_token_logprobs")
    torch.testing.assert_close(gradient, -moves_by * expected)
    worth = {"sapo": -A * torch.where(A > 0, 2.0, 2 / 1.05)} | dict.fromkeys(RISES_WITH_ADVANTAGE, -A * lp)
    torch.testing.assert_close(value, (worth.get(name, -A) * expected).sum())


@pytest.mark.parametrize("name", sorted(set(POLICY) - SURROGATES))
def test_gradient_is_that_of_the_value(name: str) -> None:
    batch, outputs = cases(15, close=True)
    lp = outputs["next_token_logprobs"]
    g = torch.Generator().manual_seed(1)
    direction = torch.randn(lp.shape, generator=g, dtype=torch.float64)
    _, gradient = value_and_gradient(create(name), batch, outputs, "next_token_logprobs")
    sides = [create(name).compute_loss(batch, {"next_token_logprobs": lp + h * direction}) for h in (1e-6, -1e-6)]
    assert isinstance(sides[0], Tensor)
    assert isinstance(sides[1], Tensor)
    torch.testing.assert_close((sides[0] - sides[1]) / 2e-6, (gradient * direction).sum(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("away", [-1e4, -300.0, -89.0, 89.0, 300.0, 1e4])
@pytest.mark.parametrize("name", POLICY)
def test_far_off_policy_stays_finite_in_float32(name: str, away: float) -> None:
    batch, outputs = cases(16, dtype=torch.float32)
    batch["prev_logprobs"] = batch["prev_logprobs"] - away
    value, gradient = value_and_gradient(create(name), batch, outputs, "next_token_logprobs")
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_rows_means_nothing(name: str) -> None:
    batch, outputs = cases(17, sample_mask="floats")
    order = torch.tensor([2, 0, 3, 1])
    loss, field = create(name), trains(name, outputs)
    value, gradient = value_and_gradient(loss, batch, outputs, field)
    turned = {k: x if "pairs" in k else x[order] for k, x in batch.items()}
    got, got_gradient = value_and_gradient(loss, turned, {k: x[order] for k, x in outputs.items()}, field)
    torch.testing.assert_close(got, value)
    torch.testing.assert_close(got_gradient, gradient[order])
