"""Every supervised loss against an oracle: a plain float64 loop written from the same formula by somebody else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.oracles import supervised_terms as oracles
from tests.reference.agreement import assert_agrees
from tests.reference.cases import Tensors, case

Config = dict[str, Any]
AGGREGATIONS: list[Config] = [
    {"aggregation": "seq_mean_token_mean"},
    {"aggregation": "seq_mean_token_sum"},
    {"aggregation": "fixed", "max_length": 7.0},
]
CONFIGS: dict[str, list[Config]] = {
    "label_smoothed_ce": [
        {"label_smoothing": 0.0},
        *({"label_smoothing": e, "spread": s} for e in (0.3, 1.0) for s in ("vocabulary", "others")),
        *({"label_smoothing": e, "softcap": 0.7} for e in (0.0, 0.3)),
        *AGGREGATIONS,
    ],
    "weighted_nll": [{"divisor": "weights"}, *AGGREGATIONS],
    "focal_ce": [{"gamma": 0.0}, {"gamma": 0.5, "alpha": 0.25}, {"gamma": 5.0}, {"detach_weight": True}, *AGGREGATIONS],
    "poly1_ce": [{"epsilon": -1.0}, {"epsilon": 0.0}, *AGGREGATIONS],
    "z_loss": [
        *({"coefficient": 3.0}, {"coefficient": 0.0}, {"coefficient": 1.0, "softcap": 0.7}),
        *({"coefficient": 1.0} | a for a in AGGREGATIONS),
    ],
    "dft": AGGREGATIONS,
    "unlikelihood": [
        {"alpha": 0.0},
        {"alpha": 0.5},
        *({"candidates": "repeated_ngrams", "ngram": n} for n in (1, 2, 3, 50)),
        *AGGREGATIONS,
    ],
    "confidence_penalty": [{"coefficient": 0.0}, {"coefficient": 1.0}, *AGGREGATIONS],
    "mtp_ce": [{"head_weights": [1.0, 0.5, 0.25]}, {"head_weights": [0.0, 2.0, 0.0]}],
}
FROM_LOGPROBS = ("weighted_nll", "focal_ce", "poly1_ce", "dft")
RUNS = [(name, config) for name, configs in CONFIGS.items() for config in [{}, *configs]]


def supervised_case(name: str, seed: int, **kwargs: Any) -> tuple[Tensors, Tensors]:
    """Return a batch of little vocabulary, so that tokens come again, and the one output the loss trains."""
    batch, outputs = case(seed, vocabulary=3, **kwargs)
    g = torch.Generator().manual_seed(seed)
    rows, width = batch["token_mask"].shape
    batch["token_weights"] = torch.rand(rows, width, generator=g, dtype=torch.float64) * 2
    batch["token_weights"][1, 2] = 0
    if name == "mtp_ce":
        return batch, {"mtp_logits": torch.randn(rows, width, 3, 3, generator=g, dtype=torch.float64)}
    kept = "logits" if "logits" in outputs else "next_token_logprobs"
    return batch, {kept: outputs[kept]}


def agrees(name: str, config: Config, batch: Tensors, outputs: Tensors, gradient: bool = True) -> None:
    stopped = name == "dft" or config.get("detach_weight", False)
    assert_agrees(name, getattr(oracles, name), config, batch, outputs, gradient=gradient and not stopped)


@pytest.mark.parametrize("counts", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_value_and_gradient(name: str, config: Config, sample_mask: str | None, counts: bool) -> None:
    source = "next_token_logprobs" if name in FROM_LOGPROBS else "logits"
    agrees(name, config, *supervised_case(name, 5, sample_mask=sample_mask, counts=counts, source=source))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_value_on_many_cases(name: str, config: Config, seed: int) -> None:
    batch, outputs = supervised_case(name, 100 + seed, rows=5, width=9, sample_mask="floats", source="logits")
    agrees(name, config, batch, outputs, gradient=False)


@pytest.mark.parametrize("name", CONFIGS)
def test_content_at_weight_zero_and_nothing_left(name: str) -> None:
    batch, outputs = supervised_case(name, 7, sample_mask="zeros", source="logits")
    for field in ("logits", "mtp_logits"):
        if field in outputs:
            outputs[field][2] = torch.nan
    batch["token_weights"][2] = torch.inf
    agrees(name, {}, batch, outputs, gradient=False)
    batch["sample_mask"].zero_()
    agrees(name, {}, batch, outputs, gradient=False)
