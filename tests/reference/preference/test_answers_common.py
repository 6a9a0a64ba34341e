"""What every loss of judged, grouped, weighted and unpaired answers obeys, whatever its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import loss_reference
from loss_reference import ConfigError, registry
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.preference.answers import (
    ANSWER_LOSSES,
    FULL_VOCABULARY,
    GROUPS,
    PAIRS,
    TRIPLES,
    answers_for,
    source_of,
)

READS_PER_ROW = ("rewards", "labels", "preference_probability", "desirable_probability", "mismatched_log_ratios")
NEEDS = {
    "rewards": (*GROUPS, "rpo_scale"),
    "labels": ("apo_zero_unpaired", "kto", "bco", "xpo", "online_dpo"),
    "preference_probability": ("sppo_soft", "nash_md"),
    "mismatched_log_ratios": ("kto",),
    "reference_logits": ("tdpo1", "tdpo2"),
    "reference_policy_logprobs": tuple(set(ANSWER_LOSSES) - {"rrhf", "tdpo1", "tdpo2", *TRIPLES}),
    "selection_mask": (),
    "desirable_probability": (),
}
ROWS_TOGETHER = {**dict.fromkeys(PAIRS, 2), **dict.fromkeys(GROUPS, 2), **dict.fromkeys(TRIPLES, 3)}


def poisoned(batch: Tensors, outputs: Tensors, poison: float) -> tuple[Tensors, Tensors]:
    """Return the case with ``poison`` wherever the weight is 0."""
    absent = batch["sample_mask"] == 0
    tokens = (batch["token_mask"] == 0) | absent.unsqueeze(1)
    tokens[:, 0] = True
    ahead = torch.cat([tokens[:, 1:], torch.ones_like(tokens[:, :1])], dim=1)
    where = {"next_token_logprobs": tokens[:, 1:], "reference_policy_logprobs": tokens, "input_ids": tokens}
    where |= {
        "logits": ahead,
        "reference_logits": ahead,
        **dict.fromkeys(READS_PER_ROW, absent),
        "selection_mask": absent,
    }

    def spoil(name: str, x: Tensor) -> Tensor:
        if name not in where:
            return x
        mask = where[name].reshape(where[name].shape + (1,) * (x.dim() - where[name].dim()))
        return x.masked_fill(mask, poison if x.is_floating_point() else -7)

    return ({k: spoil(k, x) for k, x in batch.items()}, {k: spoil(k, x) for k, x in outputs.items()})


@pytest.mark.parametrize("name", ANSWER_LOSSES)
def test_described_and_importable(name: str) -> None:
    cls = registry.get(name)
    assert getattr(loss_reference, cls.__name__) is cls
    for part in ("Config:", "Source:"):
        assert part in (cls.__doc__ or "")


@pytest.mark.parametrize("name", ANSWER_LOSSES)
def test_contract_lists_settings_with_legal_values(name: str) -> None:
    loss = registry.create(name)
    settings = {key for base in type(loss).__mro__ for key, x in vars(base).items() if type(x).__name__ == "Setting"}
    assert set(loss.contract.options) == settings - {"group_size"}
    assert loss.contract.group_size == ROWS_TOGETHER.get(name) or name in PAIRS
    for key, option in loss.contract.options.items():
        assert len(option.values) >= 2
        assert getattr(type(loss), key).default in option.values
        for value in option.values:
            registry.create(name, {key: value})


OUT_OF_RANGE: list[tuple[str, dict[str, Any]]] = [
    *((name, {"beta": 0.0}) for name in ANSWER_LOSSES if name != "rrhf"),
    *((name, {"group_size": size}) for name in GROUPS for size in (1, 2.5, True, "3")),
    *((name, {"pair_layout": "mixed"}) for name in PAIRS),
    ("infonca", {"alpha": 0.0}),
    ("infonca", {"variant": "infonce"}),
    *(
        (name, {key: -0.1})
        for name in ("kto", "apo_zero_unpaired")
        for key in ("desirable_weight", "undesirable_weight")
    ),
    ("wpo", {"label_smoothing": 0.6}),
    ("wpo", {"weighting": "free"}),
    *((name, {"tpo_alpha": -1.0}) for name in TRIPLES),
    *((name, {"nll_average": "sum"}) for name in TRIPLES),
    ("tpo", {"loss_type": "squared"}),
    ("tpo", {"label_smoothing": 0.6}),
    ("tpo_l", {"gamma": -0.5}),
    ("tdpo2", {"alpha": -0.5}),
    ("beta_dpo", {"a": -0.1}),
    ("beta_dpo", {"ema": 1.1}),
    ("rrhf", {"length_penalty": -1.0}),
    ("rrhf", {"nll_weight": -1.0}),
    ("xpo", {"alpha": -1e-5}),
    *((name, {"loss_type": "hinge"}) for name in ("xpo", "online_dpo")),
    ("chi_po", {"reward_limit": 0.0}),
    ("chi_po", {"log_ratio_limit": 81.0}),
]


@pytest.mark.parametrize(("name", "config"), OUT_OF_RANGE)
def test_setting_out_of_range(name: str, config: dict[str, Any]) -> None:
    (key,) = config
    with pytest.raises(ConfigError, match=key):
        registry.create(name, config)


@pytest.mark.parametrize("name", ANSWER_LOSSES)
def test_unknown_key_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown config key 'betta'"):
        registry.create(name, {"betta": 1.0})


@pytest.mark.parametrize("name", ANSWER_LOSSES)
def test_masked_content_reaches_nothing(name: str) -> None:
    batch, outputs = answers_for(name, 3)
    value, gradient = value_and_gradient(name, batch, outputs, source_of(name))
    assert gradient.abs().sum() > 0
    for poison in (math.nan, math.inf, -1e10):
        got, got_gradient = value_and_gradient(name, *poisoned(batch, outputs, poison), source_of(name))
        assert torch.equal(got, value)
        assert torch.equal(got_gradient, gradient)


@pytest.mark.parametrize("name", ROWS_TOGETHER)
def test_partner_of_an_absent_row_reaches_nothing(name: str) -> None:
    batch, outputs = answers_for(name, 5)
    group = 2 // ROWS_TOGETHER[name] * ROWS_TOGETHER[name]  # row 2 is absent
    rows = slice(group, group + ROWS_TOGETHER[name])
    outputs[source_of(name)][rows] = math.nan
    value, gradient = value_and_gradient(name, batch, outputs, source_of(name))
    assert value.isfinite()
    assert torch.equal(gradient[rows], torch.zeros_like(gradient[rows]))


@pytest.mark.parametrize("name", ANSWER_LOSSES)
def test_all_masked_is_zero_with_the_graph_attached(name: str) -> None:
    batch, outputs = answers_for(name, 7)
    batch["sample_mask"] = torch.zeros(12)
    value, gradient = value_and_gradient(name, *poisoned(batch, outputs, math.nan), source_of(name))
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", ANSWER_LOSSES)
def test_what_it_needs(name: str) -> None:
    batch, outputs = answers_for(name, 9)
    loss = registry.create(name)
    for field, losses in NEEDS.items():
        fewer = {key: x for key, x in batch.items() if key != field}
        if name in losses:
            with pytest.raises(KeyError, match=field):
                loss.compute_loss(fewer, outputs)
        else:
            loss.compute_loss(fewer, outputs)


@pytest.mark.parametrize("name", ROWS_TOGETHER)
def test_rows_left_over_are_refused(name: str) -> None:
    batch, outputs = answers_for(name, 11)
    one_less = [{k: x[:11] if x.dim() else x for k, x in tensors.items()} for tensors in (batch, outputs)]
    with pytest.raises(ValueError, match="11 rows"):
        registry.create(name).compute_loss(*one_less)


@pytest.mark.parametrize(("field", "name"), [(field, name) for field in READS_PER_ROW for name in NEEDS[field]])
def test_a_constant_per_row(field: str, name: str) -> None:
    batch, outputs = answers_for(name, 13)
    with pytest.raises(ValueError, match=field):
        registry.create(name).compute_loss(batch | {field: batch[field].unsqueeze(1)}, outputs)
    constant = batch[field].double().requires_grad_()
    leaf = outputs[source_of(name)].clone().requires_grad_()
    value = registry.create(name).compute_loss(batch | {field: constant}, {source_of(name): leaf})
    assert isinstance(value, Tensor)
    value.backward()
    assert constant.grad is None
    assert leaf.grad is not None


@pytest.mark.parametrize("name", ANSWER_LOSSES)
def test_half_precision_is_summed_in_float32(name: str) -> None:
    batch, outputs = answers_for(name, 15, dtype=torch.bfloat16)
    wide = [{k: x.float() if x.is_floating_point() else x for k, x in tensors.items()} for tensors in (batch, outputs)]
    value, gradient = value_and_gradient(name, batch, outputs, source_of(name))
    expected, _ = value_and_gradient(name, wide[0], wide[1], source_of(name))
    assert value.dtype is torch.float32
    assert torch.equal(value, expected)
    assert gradient.dtype is torch.bfloat16


@pytest.mark.parametrize("name", ANSWER_LOSSES)
def test_float32_stays_finite(name: str) -> None:
    batch, outputs = answers_for(name, 19, dtype=torch.float32)
    for scale in (1.0, 30.0, 1e4):
        for opposite in (1.0, -1.0):
            source = source_of(name)
            far = {source: outputs[source] * scale}
            other = {"reference_policy_logprobs": batch["reference_policy_logprobs"] * (scale if opposite > 0 else 0.0)}
            other["rewards"] = batch["rewards"] * opposite * scale
            other["reference_logits"] = batch["reference_logits"] * opposite * scale
            value, gradient = value_and_gradient(name, batch | other, far, source)
            assert value.isfinite()
            assert gradient.isfinite().all()


def test_losses_of_the_whole_vocabulary_take_no_logprobs() -> None:
    for name in FULL_VOCABULARY:
        batch, _ = answers_for(name, 21)
        with pytest.raises(KeyError, match="logits"):
            registry.create(name).compute_loss(batch, {"next_token_logprobs": torch.zeros(12, 5)})
