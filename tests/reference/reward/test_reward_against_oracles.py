"""Every reward loss against an oracle: a plain float64 loop written from the same formula by somebody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.oracles import reward_pairs, reward_rows
from tests.reference.agreement import assert_agrees
from tests.reference.cases import Tensors, case

Config = dict[str, Any]
ORACLES: dict[str, tuple[Callable[..., float], list[Config]]] = {
    "bt_margin": (reward_pairs.bt_margin, []),
    "bt_centered": (reward_pairs.bt_centered, [{"center_coefficient": 0.0}, {"center_coefficient": 2.0}]),
    "logexp_pairwise": (reward_pairs.logexp_pairwise, []),
    "bt_soft_label": (reward_pairs.bt_soft_label, []),
    "all_pairs_k": (reward_pairs.all_pairs_k, [{"group_size": 3}, {"group_size": 4}, {"group_size": 12}]),
    "plackett_luce_rm": (reward_pairs.plackett_luce_rm, [{"group_size": 3}, {"group_size": 4}, {"group_size": 12}]),
    "reward_regression": (reward_rows.reward_regression, []),
    "orm_bce": (reward_rows.orm_bce, []),
    "prm_token_ce": (reward_rows.prm_token_ce, []),
}
RUNS = [(name, config) for name, (_, configs) in ORACLES.items() for config in [{}, *configs]]


def reward_case(name: str, seed: int, **kwargs: Any) -> tuple[Tensors, Tensors]:
    """Return 12 rows with everything a reward loss may read, and the one output it trains."""
    batch, outputs = case(seed, rows=12, width=4, vocabulary=3, source="logits", **kwargs)
    g = torch.Generator().manual_seed(seed)
    rows, width = batch["token_mask"].shape
    batch |= {
        "margin": torch.randn(rows, generator=g, dtype=torch.float64),
        "preference_probability": torch.rand(rows, generator=g, dtype=torch.float64),
        "scores": torch.randn(rows, generator=g, dtype=torch.float64),
        "labels": torch.randint(2, (rows,), generator=g),
        "rewards": torch.randint(4, (rows,), generator=g).double(),  # some of them equal
        "step_labels": torch.randint(3, (rows, width), generator=g),
    }
    batch["step_labels"][torch.rand(rows, width, generator=g) < 0.4] = -100
    kept = "logits" if name == "prm_token_ce" else "rewards"
    return batch, {kept: outputs[kept]}


@pytest.mark.parametrize("counts", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_value_and_gradient(name: str, config: Config, sample_mask: str | None, counts: bool) -> None:
    batch, outputs = reward_case(name, 5, sample_mask=sample_mask, counts=counts)
    assert_agrees(name, ORACLES[name][0], config, batch, outputs)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_value_on_many_cases(name: str, config: Config, seed: int) -> None:
    batch, outputs = reward_case(name, 100 + seed, sample_mask="floats")
    assert_agrees(name, ORACLES[name][0], config, batch, outputs, gradient=False)


@pytest.mark.parametrize("name", ORACLES)
def test_content_at_weight_zero_and_nothing_left(name: str) -> None:
    batch, outputs = reward_case(name, 7, sample_mask="zeros")
    for tensors, fields in ((outputs, outputs), (batch, ("margin", "preference_probability", "scores", "rewards"))):
        for field in fields:
            tensors[field][2] = torch.nan
    batch["step_labels"][2] = 99
    assert_agrees(name, ORACLES[name][0], {}, batch, outputs, gradient=False)
    batch["sample_mask"].zero_()
    assert_agrees(name, ORACLES[name][0], {}, batch, outputs, gradient=False)
