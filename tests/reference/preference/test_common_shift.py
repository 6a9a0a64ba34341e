"""One constant more in every log-ratio of a pair or a group: what sees only differences does not notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference import registry
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.preference.answers import answers, source_of

Config = dict[str, Any]
ROWS = 12
PAIRED: list[tuple[str, Config]] = [
    *((name, {}) for name in ("dpo", "cdpo", "robust_dpo", "hinge_dpo", "ipo", "exo_pair", "discopop", "r_dpo")),
    *((name, {}) for name in ("aot", "odpo", "rpo_sq", "rpo_fwd_kl", "rpo_bwd_kl", "rpo_scale", "rebel")),
    *((name, {}) for name in ("wpo", "beta_dpo", "online_dpo", "xpo")),
    *((name, {"loss_type": "ipo"}) for name in ("online_dpo", "xpo")),
]
GROUPED: list[tuple[str, Config, int]] = [
    ("infonca", {"group_size": 3}, 3),
    ("plackett_luce_dpo", {"group_size": 4}, 4),
    ("lipo", {"group_size": 3}, 3),
    ("aot_unpaired", {}, ROWS),  # its pairs are made anew: one constant for all of them
]
ABSOLUTE: list[tuple[str, Config]] = [
    *((name, {}) for name in ("fdpo_forward_kl", "fdpo_js", "fdpo_alpha", "chi_po")),
    *((name, {}) for name in ("nca_pair", "bco_pair", "sppo_hard", "sppo_soft", "apo_zero", "apo_down", "cal_dpo", "dpop")),
    *((name, {}) for name in ("kto", "apo_zero_unpaired", "nash_md")),
    ("infonca", {"variant": "nca"}),
]  # fmt: skip


def shifted(batch: Tensors, per_row: Tensor) -> Tensors:
    """Return the batch whose reference takes ``per_row`` nats off the log-ratio of each answer."""
    n = batch["token_mask"][:, 1:].sum(1, keepdim=True)
    return batch | {"reference_policy_logprobs": batch["reference_policy_logprobs"] + per_row[:, None] / n}


def with_tokens(name: str, seed: int) -> tuple[Tensors, Tensors]:
    batch, outputs = answers(seed, sample_mask="floats", source=source_of(name), rows=ROWS)
    batch["token_mask"][:, 3] = 1.0  # an answer without tokens has no log-ratio to shift
    return batch, outputs


@pytest.mark.parametrize(
    ("name", "config", "together"), [*((name, config, 2) for name, config in PAIRED), *GROUPED], ids=str
)
def test_only_differences_count(name: str, config: Config, together: int) -> None:
    batch, outputs = with_tokens(name, 81)
    per_group = torch.randn(ROWS // together, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    expected = value_and_gradient(registry.create(name, config), batch, outputs, source_of(name))
    moved = shifted(batch, per_group.repeat_interleave(together))
    got = value_and_gradient(registry.create(name, config), moved, outputs, source_of(name))
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)
    uneven = shifted(batch, torch.linspace(-3, 3, ROWS, dtype=torch.float64))
    assert value_and_gradient(registry.create(name, config), uneven, outputs, source_of(name))[0] != expected[0]


@pytest.mark.parametrize(("name", "config"), ABSOLUTE, ids=str)
def test_the_level_counts(name: str, config: Config) -> None:
    batch, outputs = with_tokens(name, 83)
    expected, _ = value_and_gradient(registry.create(name, config), batch, outputs, source_of(name))
    moved = shifted(batch, torch.full((ROWS,), 3.0, dtype=torch.float64))
    got, _ = value_and_gradient(registry.create(name, config), moved, outputs, source_of(name))
    assert got.item() != pytest.approx(expected.item(), rel=1e-6)


def test_bco_takes_a_common_shift_up_in_its_running_mean() -> None:
    """Of the first batch every reward is measured from its mean; in evaluation from a mean that stays where it was."""
    batch, outputs = answers(85, rows=ROWS, sample_mask=None)
    batch["token_mask"][:, 3] = 1.0
    moved = shifted(batch, torch.full((ROWS,), 3.0, dtype=torch.float64))
    for training in (True, False):
        losses = [registry.create("bco").train(training) for _ in range(2)]
        first, second = (
            value_and_gradient(loss, x, outputs, "next_token_logprobs")[0].item()
            for loss, x in zip(losses, (batch, moved), strict=True)
        )
        assert (first == pytest.approx(second, rel=1e-12)) == training
