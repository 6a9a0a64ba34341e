"""What every preference loss obeys, whatever its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import loss_reference
from loss_reference import ConfigError, registry
from tests.reference.cases import value_and_gradient
from tests.reference.companions import read_at
from tests.reference.preference.helpers import (
    ABSOLUTE,
    NEW_LOSSES,
    REFERENCE_FREE,
    REWARD_AWARE,
    at,
    pairs,
)
from tests.reference.test_laws import poisoned
from tests.reference.test_preference_against_oracles import ORACLES, rewarded_case

LP = "next_token_logprobs"


def test_every_loss_is_tested_against_an_oracle() -> None:
    assert set(ORACLES) == set(NEW_LOSSES)


@pytest.mark.parametrize("name", NEW_LOSSES)
def test_exported_and_described(name: str) -> None:
    cls = registry.get(name)
    assert getattr(loss_reference, cls.__name__) is cls
    assert cls.__name__ in loss_reference.__all__
    for part in ("Inputs and errors", "Config:", "Source:"):
        assert part in (cls.__doc__ or "")


@pytest.mark.parametrize("name", NEW_LOSSES)
def test_contract_lists_every_setting_with_legal_values(name: str) -> None:
    loss = registry.create(name)
    settings = {key for base in type(loss).__mro__ for key, x in vars(base).items() if type(x).__name__ == "Setting"}
    assert set(loss.contract.options) == settings
    for key, option in loss.contract.options.items():
        # Another way to be fed, not another loss; and a weight that wants other rows where it is above 0.
        assert len(option.values) >= 2 or key == "rolled_reference" or (name, key) == ("slic_hf", "lambda_")
        assert getattr(type(loss), key).default in option.values
        for value in option.values:
            registry.create(name, read_at(type(loss), key, value))


@pytest.mark.parametrize("name", NEW_LOSSES)
def test_unknown_key_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown config key 'betta'"):
        registry.create(name, {"betta": 1.0})


OUT_OF_RANGE: list[tuple[str, dict[str, Any]]] = [
    *((name, {"beta": 0.0}) for name in NEW_LOSSES if name not in ("slic_hf", "rebel")),
    *((name, {"label_smoothing": 0.6}) for name in ("cdpo", "aot", "aot_unpaired", "simpo")),
    ("robust_dpo", {"label_smoothing": 0.5}),
    ("robust_dpo", {"label_smoothing": -0.1}),
    ("exo_pair", {"label_smoothing": 0.0}),
    ("ipo", {"average_log_probs": 1}),
    ("fdpo_alpha", {"alpha": 1.5}),
    ("discopop", {"tau": 0.0}),
    ("discopop", {"tau": 2.0}),
    ("ld_dpo", {"alpha": -0.1}),
    ("dpop", {"lambda_": -1.0}),
    ("r_dpo", {"alpha": -0.1}),
    ("cpo", {"alpha": -1.0}),
    ("cpo", {"loss_type": "squared"}),
    ("cpo", {"label_smoothing": 0.6}),
    ("simpo", {"gamma": -0.5}),
    ("alphapo", {"alpha": math.inf}),
    ("slic_hf", {"delta": 0.0}),
    *((name, {"eta": 0.0}) for name in ("rpo_sq", "rpo_fwd_kl", "rpo_bwd_kl", "rebel")),
    ("odpo", {"alpha": -1.0}),
]


@pytest.mark.parametrize(("name", "config"), OUT_OF_RANGE)
def test_setting_out_of_range(name: str, config: dict[str, Any]) -> None:
    (key,) = config
    with pytest.raises(ConfigError, match=key):
        registry.create(name, config)


@pytest.mark.parametrize("name", NEW_LOSSES)
def test_masked_content_reaches_nothing(name: str) -> None:
    batch, outputs = rewarded_case(3, rows=8)
    value, gradient = value_and_gradient(name, batch, outputs, LP)
    assert gradient.abs().sum() > 0
    for poison in (math.nan, math.inf, -1e10):
        got, got_gradient = value_and_gradient(name, *poisoned(name, batch, outputs, poison), LP)
        assert torch.equal(got, value)
        assert torch.equal(got_gradient, gradient)


@pytest.mark.parametrize("name", NEW_LOSSES)
def test_partner_of_an_absent_row_reaches_nothing(name: str) -> None:
    batch, outputs = rewarded_case(3)
    outputs[LP][3] = math.inf  # row 2, its chosen answer, is absent
    value, gradient = value_and_gradient(name, batch, outputs, LP)
    assert value.isfinite()
    assert torch.equal(gradient[2:], torch.zeros_like(gradient[2:]))


@pytest.mark.parametrize("name", NEW_LOSSES)
def test_all_masked_is_zero_with_the_graph_attached(name: str) -> None:
    batch, outputs = rewarded_case(5)
    batch["sample_mask"] = torch.zeros(4)
    value, gradient = value_and_gradient(name, *poisoned(name, batch, outputs, math.nan), LP)
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", NEW_LOSSES)
def test_what_it_needs(name: str) -> None:
    batch, outputs = pairs([0.5], [0.2])
    loss = registry.create(name)
    for field, needed in (("reference_policy_logprobs", name not in REFERENCE_FREE), ("rewards", name in REWARD_AWARE)):
        fewer = {key: x for key, x in batch.items() if key != field}
        if needed:
            with pytest.raises(KeyError, match=field):
                loss.compute_loss(fewer, outputs)
        else:
            loss.compute_loss(fewer, outputs)


@pytest.mark.parametrize("name", NEW_LOSSES)
def test_odd_number_of_rows(name: str) -> None:
    batch, outputs = pairs([0.5, 0.0], [0.2, 0.0])
    with pytest.raises(ValueError, match="3 rows"):
        registry.create(name).compute_loss({k: x[:3] for k, x in batch.items()}, {k: x[:3] for k, x in outputs.items()})


@pytest.mark.parametrize("name", REWARD_AWARE)
def test_rewards_are_a_constant_per_row(name: str) -> None:
    batch, outputs = pairs([0.5], [0.2])
    with pytest.raises(ValueError, match="rewards"):
        registry.create(name).compute_loss(batch | {"rewards": batch["rewards"].unsqueeze(1)}, outputs)
    batch["rewards"].requires_grad_()
    value = registry.create(name).compute_loss(batch, {LP: outputs[LP].clone().requires_grad_()})
    assert isinstance(value, torch.Tensor)
    value.backward()
    assert batch["rewards"].grad is None


@pytest.mark.parametrize("name", NEW_LOSSES)
def test_shift_of_both_log_ratios(name: str) -> None:
    here, there = at(name, -0.7, -0.4, gap=0.5)[0], at(name, 19.3, 19.6, gap=0.5)[0]
    if name in ABSOLUTE:
        assert there != pytest.approx(here, rel=1e-3)
    else:
        assert there == pytest.approx(here, rel=1e-12)


@pytest.mark.parametrize("name", NEW_LOSSES)
def test_declared_direction_of_the_scores(name: str) -> None:
    direction = registry.create(name).contract.direction
    for h_w, h_l in [(-30.0, 5.0), (-1.0, 1.0), (0.0, 0.0), (3.0, -2.0), (20.0, -20.0)]:
        gradient = at(name, h_w, h_l, gap=0.5, p_w=-1.5, p_l=-0.5)[1]
        for side, score in enumerate(("chosen_scores", "rejected_scores")):
            assert gradient[side] * direction.get(score, 0) >= 0


@pytest.mark.parametrize("name", NEW_LOSSES)
def test_float32_stays_finite(name: str) -> None:
    for h in (-1e4, -300.0, -90.0, -12.0, 12.0, 90.0, 300.0, 1e4):
        p_w, p_l = min(h, 0.0), min(-h, 0.0)
        batch, outputs = pairs([h, 0.0, h, h], [0.0, h, h, -h], p_w=p_w, p_l=p_l, gap=h / 2, dtype=torch.float32)
        value, gradient = value_and_gradient(name, batch, outputs, LP)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NEW_LOSSES)
def test_half_precision_is_summed_in_float32(name: str) -> None:
    batch, outputs = rewarded_case(11, dtype=torch.bfloat16)
    wide = [{k: x.float() if x.is_floating_point() else x for k, x in tensors.items()} for tensors in (batch, outputs)]
    value, gradient = value_and_gradient(name, batch, outputs, LP)
    expected, _ = value_and_gradient(name, wide[0], wide[1], LP)
    assert value.dtype is torch.float32
    assert torch.equal(value, expected)
    assert gradient.dtype is torch.bfloat16
