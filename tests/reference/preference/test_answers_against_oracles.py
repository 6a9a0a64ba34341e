"""Losses of judged, grouped, weighted and unpaired answers against oracles written from the formulas by somebody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.oracles import preference_groups, preference_judged, preference_unpaired, preference_weighted
from tests.reference.agreement import assert_agrees
from tests.reference.cases import Tensors
from tests.reference.preference.answers import ANSWER_LOSSES, answers_for, source_of

Config = dict[str, Any]
MODULES = (preference_unpaired, preference_groups, preference_weighted, preference_judged)
BETA: list[Config] = [{"beta": 1.0}]
WEIGHTS: list[Config] = [*BETA, {"desirable_weight": 1.5, "undesirable_weight": 0.3}]
SIZES: list[Config] = [{"group_size": 3}, {"group_size": 4, "beta": 1.0}]
IMITATION: list[Config] = [{"tpo_alpha": 0.0}, {"tpo_alpha": 3.0, "beta": 1.0}]
CONFIGS: dict[str, list[Config]] = {
    "infonca": [*SIZES, {"alpha": 0.3}, {"variant": "nca"}, {"variant": "nca", "group_size": 4, "alpha": 2.0}],
    "bco": BETA,
    "apo_zero_unpaired": WEIGHTS,
    "wpo": [
        *BETA,
        {"label_smoothing": 0.3},
        {"weighting": "clamped"},
        {"weighting": "clamped", "label_smoothing": 0.5},
    ],
    "kto": WEIGHTS,
    "tpo": [*IMITATION, {"label_smoothing": 0.3}, *({"loss_type": t, "beta": 0.7} for t in ("hinge", "ipo"))],
    "tpo_l": [*IMITATION, {"gamma": 0.0}, {"gamma": 2.0}],
    "tdpo1": BETA,
    "tdpo2": [*BETA, {"alpha": 0.0}, {"alpha": 2.0}],
    "beta_dpo": [*BETA, {"a": 0.0}, {"a": 20.0}],
    "rpo_scale": BETA,
    "sppo_soft": BETA,
    "rrhf": [{"group_size": 3}, {"length_penalty": 0.0}, {"length_penalty": 0.5, "group_size": 4}, {"nll_weight": 0.0}],
    "plackett_luce_dpo": SIZES,
    "lipo": SIZES,
    "xpo": [{"alpha": 0.0}, {"alpha": 0.3}, {"loss_type": "ipo", "alpha": 0.1}],
    "nash_md": BETA,
    "online_dpo": [*BETA, {"loss_type": "ipo"}],
    "chi_po": [*BETA, {"log_ratio_limit": 0.5}, {"reward_limit": 0.4}],
}
# Finite differences of the value do not see a stop-gradient.
STOPPED = {"bco", "tdpo2", "beta_dpo", "nash_md"}
RUNS = [(name, config) for name, configs in CONFIGS.items() for config in [{}, *configs]]


def oracle_of(name: str) -> Callable[..., float]:
    return next(getattr(module, name) for module in MODULES if hasattr(module, name))


def stops_gradients(name: str, config: Config) -> bool:
    return name in STOPPED or (name == "wpo" and config.get("weighting", "aligned") == "aligned")


def assert_loss_agrees(name: str, config: Config, batch: Tensors, outputs: Tensors, gradient: bool) -> None:
    only = {source_of(name): outputs[source_of(name)]}
    assert_agrees(name, oracle_of(name), config, batch, only, gradient=gradient and not stops_gradients(name, config))


def test_every_loss_is_compared() -> None:
    assert set(CONFIGS) == set(ANSWER_LOSSES)


@pytest.mark.parametrize("counts", [False, True], ids=["local", "global"])
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_value_and_gradient(name: str, config: Config, counts: bool) -> None:
    for sample_mask in (None, "zeros", "floats"):
        batch, outputs = answers_for(name, 17, sample_mask=sample_mask, counts=counts, width=4, vocabulary=3)
        assert_loss_agrees(name, config, batch, outputs, gradient=sample_mask == "floats")


@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize("name", CONFIGS)
def test_value_on_many_cases(name: str, sample_mask: str | None) -> None:
    for seed in range(4):
        batch, outputs = answers_for(name, 100 + seed, rows=12 + 12 * (seed % 2), width=8, sample_mask=sample_mask)
        assert_loss_agrees(name, {}, batch, outputs, gradient=False)


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_left(name: str) -> None:
    batch, outputs = answers_for(name, 37)
    batch["sample_mask"] = torch.zeros(12, dtype=torch.float64)
    assert_loss_agrees(name, {}, batch, outputs, gradient=True)


@pytest.mark.parametrize("name", ["kto"])
def test_given_reference_point(name: str) -> None:
    batch, outputs = answers_for(name, 41, sample_mask="floats")
    for point in (0.7, -0.7):
        batch["kl_reference_point"] = torch.tensor(point, dtype=torch.float64)
        assert_loss_agrees(name, {"beta": 0.5}, batch, outputs, gradient=True)


@pytest.mark.parametrize(("name", "field"), [("bco", "desirable_probability"), ("beta_dpo", "selection_mask")])
def test_without_an_optional_field(name: str, field: str) -> None:
    batch, outputs = answers_for(name, 43, sample_mask="zeros", counts=True)
    del batch[field]
    assert_loss_agrees(name, {}, batch, outputs, gradient=False)


@pytest.mark.parametrize("sample_mask", [None, "zeros"])
@pytest.mark.parametrize("name", ["tpo", "tpo_l"])
def test_nll_over_the_gold_tokens_of_the_batch(name: str, sample_mask: str | None) -> None:
    batch, outputs = answers_for(name, 47, sample_mask=sample_mask, width=4)
    assert_loss_agrees(name, {"nll_average": "tokens", "tpo_alpha": 0.6}, batch, outputs, gradient=True)


@pytest.mark.parametrize("counts", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("config", [{"lambda_": 0.5}, {"lambda_": 2.0, "delta": 10.0}, {"delta": 0.1}])
def test_slic_hf_with_a_target(config: Config, counts: bool) -> None:
    for sample_mask in (None, "zeros", "floats"):
        batch, outputs = answers_for("slic_hf", 53, sample_mask=sample_mask, counts=counts, width=4)
        only = {"next_token_logprobs": outputs["next_token_logprobs"]}
        oracle = preference_groups.slic_hf_with_target
        assert_agrees("slic_hf", oracle, config, batch, only, gradient=sample_mask == "floats")
