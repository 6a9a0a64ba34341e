"""Composites of a fixed make beside their oracles, which somebody else wrote from the same formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.oracles import composite_presets, sequence_packing
from tests.reference.agreement import assert_agrees
from tests.reference.cases import Tensors, case

Config = dict[str, Any]
MASKS = [None, "zeros", "floats"]
PREFERENCES: list[tuple[str, Config]] = [
    *(("rpo_nll", config) for config in ({}, {"alpha": 0.0}, {"alpha": 0.3, "beta": 1.0})),
    *(("mpo", config) for config in ({}, {"beta": 1.0}, {"quality_weight": 0.0}, {"generation_weight": 0.0})),
    ("mpo", {"preference_weight": 0.0, "quality_weight": 2.0, "generation_weight": 0.3}),
    *((name, {"nll_average": "sum"}) for name in ("rpo_nll", "mpo")),
    *(("custom", config) for config in ({}, {"custom_weight": -2.0, "beta": 1.0})),
]


@pytest.mark.parametrize("sample_mask", MASKS)
@pytest.mark.parametrize(("name", "config"), PREFERENCES)
def test_preferences(name: str, config: Config, sample_mask: str | None) -> None:
    for counts in (False, True):
        batch, outputs = case(32, rows=8, sample_mask=sample_mask, counts=counts, width=4)
        only = {"next_token_logprobs": outputs["next_token_logprobs"]}
        gradient = sample_mask == "floats" or (counts and not config)
        assert_agrees(name, getattr(composite_presets, name), config, batch, only, gradient=gradient)


@pytest.mark.parametrize("sample_mask", MASKS)
@pytest.mark.parametrize("name", ["mpo", "rpo_nll"])
def test_nll_over_the_chosen_tokens_of_the_batch(name: str, sample_mask: str | None) -> None:
    for counts in (False, True):
        batch, outputs = case(32, rows=8, sample_mask=sample_mask, counts=counts, width=4)
        only = {"next_token_logprobs": outputs["next_token_logprobs"]}
        assert_agrees(name, getattr(composite_presets, name), {"nll_average": "tokens"}, batch, only)


@pytest.mark.parametrize("sample_mask", MASKS)
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"value_coefficient": 0.0},
        {"value": {"type": "value_clipped", "scale": 2.0}, "value_coefficient": 0.1},
        {"policy": {"type": "grpo", "reference_policy_kl_penalty": 0.3}, "entropy_coefficient": 0.4},
        {"entropy_coefficient": 0.4, "kl_coefficient": 0.7},
    ],
)
def test_actor_critic_total(config: Config, sample_mask: str | None) -> None:
    for counts in (False, True):
        batch, outputs = case(
            53, source="logits", sample_mask=sample_mask, counts=counts, rows=4, width=4, vocabulary=3
        )
        batch["values"] = batch["returns"] + 0.3 * batch["advantages"]
        only = {name: outputs[name] for name in ("logits", "values")}
        if config.get("value_coefficient") == 0.0:
            del only["values"]
        gradient = sample_mask == "floats" and not counts
        assert_agrees(
            "actor_critic_total", composite_presets.actor_critic_total, config, batch, only, gradient=gradient
        )


def drafted(seed: int, **kwargs: Any) -> tuple[Tensors, Tensors]:
    batch, outputs = case(seed, source="logits", rows=4, width=4, vocabulary=3, **kwargs)
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(outputs["logits"].shape, generator=g, dtype=torch.float64)
    return batch, {"logits": outputs["logits"], "draft_logits": student}


@pytest.mark.parametrize("sample_mask", MASKS)
@pytest.mark.parametrize(
    "config",
    [{}, {"ahead": 1}, {"ahead": 2, "temperature": 2.0}, {"draft_weight": 0.3, "policy": {"type": "ppo_clip"}}],
)
def test_draft(config: Config, sample_mask: str | None) -> None:
    for counts in (False, True):
        batch, outputs = drafted(54, sample_mask=sample_mask, counts=counts)
        # As a teacher the policy is constant, which finite differences in its logits do not see.
        gradient = sample_mask == "floats" and not counts
        assert_agrees(
            "draft", composite_presets.draft, config, batch, outputs, gradient=gradient, fields=("draft_logits",)
        )


LENGTHS = [5, 3, 1, 4, 5, 2]


def packed(fields: Tensors) -> Tensors:
    """The rows of LENGTHS end to end, where a field has a token axis."""
    joined = {}
    for name, x in fields.items():
        short = name == "next_token_logprobs"
        if short or x.shape[1:2] == (5,):
            rows = F.pad(x, (0, 1)) if short else x
            x = torch.cat([row[:n] for row, n in zip(rows, LENGTHS, strict=True)])[None]
        joined[name] = x[:, :-1] if short else x
    return joined


@pytest.mark.parametrize("sample_mask", MASKS)
@pytest.mark.parametrize(
    "component", [{}, {"type": "nll", "aggregation": "seq_mean_token_mean"}, {"type": "ppo_clip"}, {"type": "dpo"}]
)
def test_sequence_packing(component: Config, sample_mask: str | None) -> None:
    config = {"loss": component} if component else {}
    for counts in (False, True):
        batch, outputs = case(56, rows=6, sample_mask=sample_mask, counts=counts, width=5)
        joined = packed(batch) | {"input_lengths": torch.tensor(LENGTHS)}
        only = packed({"next_token_logprobs": outputs["next_token_logprobs"]})
        oracle = sequence_packing.sequence_packing
        assert_agrees("sequence_packing", oracle, config, joined, only, gradient=sample_mask == "floats")
