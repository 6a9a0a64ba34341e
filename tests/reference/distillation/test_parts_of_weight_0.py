"""A part of weight 0 is not there: neither its value nor its gradient, even where they are infinite."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import registry
from tests.reference.cases import value_and_gradient
from tests.reference.distillation.extended import extended_case
from tests.reference.distillation.test_filtered_vocabulary import filtered
from tests.reference.policy_gradient.further import FIELD

TWO_MATCHED = [0, 1, -1, -1, -1]
# Name, settings, the side that finds a token impossible, and what is left.
ENDS: list[tuple[str, dict[str, Any], str, tuple[str, dict[str, Any]]]] = [
    ("mixed_kl", {"mixed_kl_weight": 1.0}, "teacher", ("forward_kl", {})),
    ("mixed_kl", {"mixed_kl_weight": 0.0}, "student", ("reverse_kl", {})),
    *(
        (name, {"kl_type": "mixed", "mixed_kl_weight": w}, who, (name, {"kl_type": kl_type}))
        for name in ("topk_renorm", "zero_outside_topk")
        for w, who, kl_type in ((1.0, "teacher", "forward"), (0.0, "student", "reverse"))
    ),
    ("generalized_jsd", {"beta": 0.0}, "teacher", ("forward_kl", {})),
    ("generalized_jsd", {"beta": 1.0}, "student", ("reverse_kl", {})),
    ("hinton_kd", {"alpha": 0.0}, "student", ("nll", {})),
]


@pytest.mark.parametrize(("name", "config", "who", "left"), ENDS)
def test_what_is_left_at_an_end_point(
    name: str, config: dict[str, Any], who: str, left: tuple[str, dict[str, Any]]
) -> None:
    batch, outputs = filtered(name, who, torch.float64)
    got, expected = (
        value_and_gradient(registry.create(*loss), batch, outputs, "logits") for loss in ((name, config), left)
    )
    assert math.isfinite(got[0])
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("beta", "who"), [(0.0, "student"), (1.0, "teacher")])
def test_hybrid_uld_without_its_matched_part(beta: float, who: str) -> None:
    """Of the two matched tokens one is impossible; what is left is the comparison by rank of the others."""
    batch, outputs = filtered("hybrid_uld", who, torch.float64)
    config = {"vocabulary_map": TWO_MATCHED, "matched_weight": 0.0, "unmatched_weight": 1.0}
    loss = registry.create("hybrid_uld", config)
    within = value_and_gradient(loss, batch, outputs, "logits")
    loss.beta = beta  # which a config cannot ask for: nothing reads it there
    got = value_and_gradient(loss, batch, outputs, "logits")
    assert 0 < got[0] < 2
    assert torch.isfinite(got[1]).all()
    torch.testing.assert_close(got, within)


def test_sdpo_without_distillation_is_its_policy() -> None:
    batch, outputs = extended_case(3, source=FIELD, sample_mask="floats")
    batch["token_mask"][:, 2] = 1.0
    batch["teacher_logprobs"][:, 2] = -math.inf
    got = value_and_gradient(registry.create("sdpo", {"distillation_weight": 0.0}), batch, outputs, FIELD)
    ppo = registry.create("ppo_clip", {"aggregation": "seq_mean_token_mean"})
    torch.testing.assert_close(got, value_and_gradient(ppo, batch, outputs, FIELD))
