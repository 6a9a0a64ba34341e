"""What the further losses of the policy-gradient family obey, whatever their formula."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import Tensor

import loss_reference
from loss_reference import ConfigError, LossFunction, ModelOutputs, registry
from tests.reference.cases import Tensors, rows_of, value_and_gradient
from tests.reference.companions import read_at
from tests.reference.policy_gradient.further import CORRECTED, FIELD, NAMES, READS, further_case, source_of
from tests.reference.test_laws import POISON

COUPLED = ("clip_cov", "kl_cov")
PER_ROW = ("rewards", "v_star", "sample_mask")


@pytest.mark.parametrize("name", NAMES)
def test_importable_with_every_setting_in_the_contract(name: str) -> None:
    loss = registry.create(name)
    assert getattr(loss_reference, type(loss).__name__) is type(loss)
    assert loss.contract.family == "policy_gradient"
    settings = {key for base in type(loss).__mro__ for key, x in vars(base).items() if type(x).__name__ == "Setting"}
    assert set(loss.contract.options) == settings
    for key, option in loss.contract.options.items():
        assert len(option.values) >= 2
        for value in option.values:
            beside = read_at(type(loss), key, value)
            beside |= {"clip_cov_lb": 0.0} if key == "clip_cov_ub" else {}
            if name == "divergence_mask" and key == "upper":
                beside |= {"estimator": "k2"}
            registry.create(name, {key: value} | beside)
    with pytest.raises(ConfigError, match="unknown config key 'betta'"):
        registry.create(name, {"betta": 1.0})


def poisoned(batch: Tensors, outputs: Tensors, poison: float) -> tuple[Tensors, Tensors]:
    """Return the case with ``poison`` at every position of weight 0, in every floating tensor."""
    absent = batch["sample_mask"] == 0
    masked = (batch["token_mask"] == 0) | absent[:, None]
    masked[:, 0] = True
    ahead = torch.cat([masked[:, 1:], torch.ones(len(absent), 1, dtype=torch.bool)], dim=1)

    def spoil(name: str, x: Tensor) -> Tensor:
        if not x.is_floating_point() or x.dim() == 0 or name in ("token_mask", "sample_mask"):
            return x
        if x.dim() == 1:
            return x.masked_fill(absent, poison)
        if x.dim() == 3:
            return x.masked_fill(ahead[..., None], poison)
        return x.masked_fill(masked[:, 1:] if x.shape[1] < masked.shape[1] else masked, poison)

    return {k: spoil(k, x) for k, x in batch.items()}, {k: spoil(k, x) for k, x in outputs.items()}


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("name", NAMES)
def test_masked_content_reaches_nothing(name: str, poison: float) -> None:
    batch, outputs = further_case(4, source_of(name))
    batch["rewards"] = batch["rewards"].abs()  # some correct answer for VAPO
    value, gradient = value_and_gradient(name, batch, outputs, source_of(name))
    got, got_gradient = value_and_gradient(name, *poisoned(batch, outputs, poison), source_of(name))
    assert torch.equal(got, value)
    assert torch.equal(got_gradient, gradient)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("poison", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("mask", ["sample_mask", "token_mask"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_trained_is_zero_with_the_graph_attached(name: str, mask: str, poison: float) -> None:
    if name == "a2po" and mask == "token_mask":
        pytest.skip("a row without a token still has a reward")
    batch, outputs = further_case(5, source_of(name))
    batch[mask] = torch.zeros_like(batch[mask])
    value, gradient = value_and_gradient(name, *poisoned(batch, outputs, poison), source_of(name))
    assert value == 0
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_one_token_wide_batch(name: str) -> None:
    batch, outputs = further_case(5, source_of(name), width=3)
    narrow = {k: x[:, :1] if x.dim() > 1 else x for k, x in batch.items() if "pairs" not in k}
    few = {k: x[:, :0] if k == FIELD else x[:, :1] for k, x in outputs.items()}
    value, _ = value_and_gradient(name, narrow, few, source_of(name))
    assert math.isfinite(value)
    assert value == 0 or name == "a2po"


@pytest.mark.parametrize("sample_mask", ["zeros", "floats"])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in COUPLED])
def test_microbatches_add_up_with_global_counts(name: str, sample_mask: str) -> None:
    batch, outputs = further_case(6, source_of(name), counts=True, sample_mask=sample_mask)
    whole, gradient = value_and_gradient(name, batch, outputs, source_of(name))
    halves = [(rows_of(batch, a, b), rows_of(outputs, a, b)) for a, b in ((0, 2), (2, 4))]
    parts = [value_and_gradient(name, *half, source_of(name)) for half in halves]
    torch.testing.assert_close(sum(value for value, _ in parts), whole)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), gradient)


@pytest.mark.parametrize("name", NAMES)
def test_constants_get_no_gradient_and_copies_agree(name: str) -> None:
    batch, outputs = further_case(8, source_of(name), counts=True)
    constants = {k: x.requires_grad_() if x.is_floating_point() else x for k, x in batch.items()}
    before = {k: x.detach().clone() for k, x in (batch | outputs).items()}
    leaves = ModelOutputs({k: x.requires_grad_() for k, x in outputs.items()})
    loss: LossFunction = pickle.loads(pickle.dumps(registry.create(name)))
    value = loss.compute_loss(constants, leaves)
    assert isinstance(value, Tensor)
    assert value.shape == ()
    value.backward()  # type: ignore[no-untyped-call]
    assert all(x.grad is None for x in constants.values())
    assert all(torch.equal(before[k], x) for k, x in (batch | outputs).items())
    torch.testing.assert_close(registry.create(name).compute_loss(batch, outputs), value)


@pytest.mark.parametrize("name", NAMES)
def test_required_fields_and_their_shapes(name: str) -> None:
    batch, outputs = further_case(11, source_of(name))
    few = {key: batch[key] for key in READS[name] | {"token_mask"}}
    registry.create(name).compute_loss(few, outputs)
    for field in READS[name]:
        with pytest.raises(KeyError, match=field):
            registry.create(name).compute_loss({k: x for k, x in few.items() if k != field}, outputs)
        wrong = torch.zeros(4, 1, dtype=torch.float64)
        expected = r"\(4,\), one per row" if field in PER_ROW else r"\(4, 6\), one entry per token"
        with pytest.raises(ValueError, match=rf"{field} has shape \(4, 1\); expected {expected}"):
            registry.create(name).compute_loss(few | {field: wrong}, outputs)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_rows_means_nothing(name: str) -> None:
    batch, outputs = further_case(17, source_of(name), sample_mask="floats")
    order = torch.tensor([2, 0, 3, 1])
    value, gradient = value_and_gradient(name, batch, outputs, source_of(name))
    turned = [{k: x if "pairs" in k else x[order] for k, x in part.items()} for part in (batch, outputs)]
    got, got_gradient = value_and_gradient(name, *turned, source_of(name))
    torch.testing.assert_close(got, value)
    torch.testing.assert_close(got_gradient, gradient[order])


@pytest.mark.parametrize("name", ["rloo", "gpg", "clip_cov", *CORRECTED])
def test_scales_with_the_advantage_and_vanishes_with_it(name: str) -> None:
    batch, outputs = further_case(18, sample_mask="floats")
    config = (
        {"clip_cov_lb": 1e6, "clip_cov_ub": 1e7} if name == "clip_cov" else {}
    )  # a covariance has the advantage in it
    loss = registry.create(name, config)
    value, gradient = value_and_gradient(loss, batch, outputs, FIELD)
    for factor in (0.0, 5.0):
        more = batch | {"advantages": factor * batch["advantages"]}
        got, got_gradient = value_and_gradient(loss, more, outputs, FIELD)
        torch.testing.assert_close(got, factor * value)
        torch.testing.assert_close(got_gradient, factor * gradient)
