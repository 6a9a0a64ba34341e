"""Conventions of other libraries: pairs as halves of the batch, the NLL of the prompt, an NLL beside SimPO."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ModelOutputs, registry
from loss_reference.preference.layout import HalvesAsPairs, PairedLoss, halves_to_pairs
from tests.oracles import composite_presets, preference, preference_pairs
from tests.reference.agreement import assert_agrees
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.preference.answers import answers_for, one_token, source_of

LP = "next_token_logprobs"
NAMES = sorted(name for name in registry.names() if issubclass(registry.get(name), PairedLoss))
NAMES = [name for name in NAMES if registry.get(name).__module__.startswith("loss_reference.preference")]
AS_HALVES = torch.cat([torch.arange(0, 12, 2), torch.arange(1, 12, 2)])


def as_halves(tensors: Tensors) -> Tensors:
    return {k: x[AS_HALVES] if x.dim() and len(x) == 12 else x for k, x in tensors.items()}


@pytest.mark.parametrize("name", NAMES)
def test_halves_are_the_same_pairs_elsewhere(name: str) -> None:
    batch, outputs = answers_for(name, 3, sample_mask="floats", counts=True)
    source = source_of(name)
    value, gradient = value_and_gradient(name, batch, outputs, source)
    loss = registry.create(name, {"pair_layout": "halves"})
    got, got_gradient = value_and_gradient(loss, as_halves(batch), as_halves(outputs), source)
    assert torch.equal(got, value)
    assert torch.equal(got_gradient, gradient[AS_HALVES])
    assert not torch.equal(value_and_gradient(name, as_halves(batch), as_halves(outputs), source)[0], value)


def test_there_are_many_of_them() -> None:
    assert {"dpo", "ipo", "orpo", "cpo", "simpo", "aot", "rebel", "wpo", "online_dpo"} <= set(NAMES)


@pytest.mark.parametrize("pair_layout", ["interleaved", "halves"])
@pytest.mark.parametrize(
    ("name", "oracle", "config"),
    [
        ("dpo", preference.dpo, {}),
        ("dpo", preference.dpo, {"label_smoothing": 0.2, "average_log_probs": True}),
        ("dpo_norm", preference_pairs.dpo_norm, {"beta": 0.7}),
        ("rpo_nll", composite_presets.rpo_nll, {"nll_average": "sum"}),
    ],
)
def test_a_rolled_reference_is_that_of_nemo_rl(
    name: str, oracle: Any, config: dict[str, Any], pair_layout: str
) -> None:
    """Its entry t speaks of token t + 1 and its last one means nothing; our entry t speaks of token t."""
    batch, outputs = answers_for("dpo", 3, sample_mask="floats", counts=True)
    assert_agrees(name, oracle, config, batch, outputs, fields=(LP,))
    value, gradient = value_and_gradient(registry.create(name, config), batch, outputs, LP)
    rolled = batch["reference_policy_logprobs"].roll(-1, dims=1)
    rolled[:, -1] = math.nan
    theirs, theirs_outputs, order = batch | {"reference_policy_logprobs": rolled}, outputs, torch.arange(12)
    if pair_layout == "halves":
        theirs, theirs_outputs, order = as_halves(theirs), as_halves(outputs), AS_HALVES
    loss = registry.create(name, {**config, "pair_layout": pair_layout, "rolled_reference": True})
    got, got_gradient = value_and_gradient(loss, theirs, theirs_outputs, LP)
    assert torch.equal(got, value)
    assert torch.equal(got_gradient, gradient[order])
    assert loss.contract.fields["reference_policy_logprobs"].speaks_of == "next"
    unrolled = registry.create(name, {**config, "pair_layout": pair_layout})
    assert not torch.equal(value_and_gradient(unrolled, theirs, theirs_outputs, LP)[0], value)


def test_a_rolled_reference_of_a_wrong_shape() -> None:
    batch, outputs = answers_for("dpo", 3)
    loss = registry.create("dpo", {"rolled_reference": True})
    for wrong in (batch["reference_policy_logprobs"][:, 1:], batch["reference_policy_logprobs"][:, 0]):
        with pytest.raises(ValueError, match="reference_policy_logprobs"):
            loss.compute_loss(batch | {"reference_policy_logprobs": wrong}, outputs)


def test_an_odd_number_of_rows_has_no_halves() -> None:
    batch, outputs = one_token([0.0] * 3)
    with pytest.raises(ValueError, match="3 rows; pairs are the halves of the batch"):
        registry.create("dpo", {"pair_layout": "halves"}).compute_loss(batch, outputs)


def test_a_mapping_read_as_pairs() -> None:
    fields = HalvesAsPairs(ModelOutputs({"x": torch.arange(6), "count": torch.tensor(3.0)}))
    assert fields.x.tolist() == fields["x"].tolist()
    with pytest.raises(AttributeError, match="no 'y'"):
        _ = fields.y
    assert fields["x"].tolist() == [0, 3, 1, 4, 2, 5]
    assert fields.get("x").tolist() == [0, 3, 1, 4, 2, 5]
    assert fields["count"].item() == 3
    assert fields.get("y") is None
    assert "y" not in fields
    assert (list(fields), len(fields)) == (["x", "count"], 2)
    assert halves_to_pairs(torch.zeros(0, 3)).shape == (0, 3)


def orpo_pair() -> tuple[Tensors, Tensors]:
    """Return one pair of rows of two prompt tokens, two answer tokens and one of padding."""
    lp = torch.tensor([[-0.3, -0.5, -0.7, math.nan], [-0.2, -1.0, -0.4, math.nan]], dtype=torch.float64)
    mask = torch.tensor([[0.0, 0, 1, 1, 0]] * 2, dtype=torch.float64)
    ids = torch.zeros(2, 5, dtype=torch.long)
    return {"token_mask": mask, "input_ids": ids, "input_lengths": torch.tensor([4, 4])}, {LP: lp}


def test_orpo_imitates_the_answer_or_the_prompt_too() -> None:
    batch, outputs = orpo_pair()
    response, gradient = value_and_gradient("orpo", batch, outputs, LP)
    full, full_gradient = value_and_gradient(registry.create("orpo", {"nll_span": "full"}), batch, outputs, LP)
    assert (full - response).item() == pytest.approx((0.3 + 0.5 + 0.7) / 3 - (0.5 + 0.7) / 2)
    assert gradient[0, 0] == 0
    assert full_gradient[0, 0].item() == pytest.approx(-1 / 3)
    assert (full_gradient[:, 3] == 0).all()
    assert full_gradient[1, 0] == 0  # the prompt of the rejected answer is not imitated


def test_orpo_of_rows_whose_length_nobody_says() -> None:
    batch, outputs = orpo_pair()
    del batch["input_lengths"]
    outputs[LP][:, 3] = -0.9
    loss = registry.create("orpo", {"nll_span": "full"})
    lengths = torch.tensor([5, 5])
    expected = value_and_gradient(loss, {**batch, "input_lengths": lengths}, outputs, LP)
    torch.testing.assert_close(value_and_gradient(loss, batch, outputs, LP), expected)
    with pytest.raises(ValueError, match="input_lengths"):
        loss.compute_loss({**batch, "input_lengths": lengths.unsqueeze(1)}, outputs)


def test_orpo_breaks_the_laws_of_masking_on_purpose() -> None:
    batch, outputs = orpo_pair()
    loss = registry.create("orpo", {"nll_span": "full"})
    moved = {LP: outputs[LP] - torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])}
    value, gradient = value_and_gradient(loss, batch, outputs, LP)
    assert value_and_gradient(loss, batch, moved, LP)[0].item() == pytest.approx(value.item() + 1 / 3)  # mask_value
    assert gradient[0, 0] != 0  # mask_gradient
    spoilt = {LP: outputs[LP].index_fill(1, torch.tensor([0]), math.nan)}
    assert value_and_gradient(loss, batch, spoilt, LP)[0].isnan()  # mask_extreme
    assert set(loss.contract.exempt) == {"mask_value", "mask_extreme", "mask_gradient"}
    assert not registry.create("orpo").contract.exempt


def test_simpo_beside_imitation() -> None:
    batch, outputs = answers_for("simpo", 5, sample_mask=None)
    without, _ = value_and_gradient("simpo", batch, outputs, LP)
    value, _ = value_and_gradient(registry.create("simpo", {"nll_weight": 0.7}), batch, outputs, LP)
    m = batch["token_mask"][0::2, 1:]
    nll = -(outputs[LP][0::2] * m).sum(1) / m.sum(1).clamp(min=1)
    assert (value - without).item() == pytest.approx(0.7 * nll.mean().item())
