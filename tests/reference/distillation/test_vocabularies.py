"""Universal logit distillation and its hybrid: the same positions, different vocabularies."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, registry
from loss_reference.distillation.vocabularies import sorted_l1
from tests.reference.cases import value_and_gradient
from tests.reference.distillation.extended import extended_case
from tests.reference.distillation.test_kl import one_position

NAMES = ("uld", "hybrid_uld")
# Student (0.6, 0.3, 0.1); teacher (0.1, 0.2, 0.4, 0.3).
STUDENT = [math.log(q) for q in (0.6, 0.3, 0.1)]
TEACHER = [math.log(p) for p in (0.1, 0.2, 0.4, 0.3)]
RANKED = abs(0.6 - 0.4) + abs(0.3 - 0.3) + abs(0.1 - 0.2) + 0.1


def jsd(p: list[float], q: list[float]) -> float:
    return sum(
        0.5 * a * math.log(2 * a / (a + b)) + 0.5 * b * math.log(2 * b / (a + b)) for a, b in zip(p, q, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "config", "by_hand"),
    [
        ("uld", {}, RANKED),
        # Ids 0, 1, 2 are the same: 3 of 4 of the teacher's tokens; its last one has nothing to be ranked with.
        ("hybrid_uld", {}, 0.75 * jsd([0.1, 0.2, 0.4], [0.6, 0.3, 0.1]) + 0.25 * 0.3),
        ("hybrid_uld", {"vocabulary_map": [2, -1, 0]}, 0.5 * jsd([0.4, 0.1], [0.6, 0.1]) + 0.5 * (0.3 - 0.3 + 0.2)),
        ("hybrid_uld", {"vocabulary_map": [-1, -1, -1]}, RANKED),
        ("hybrid_uld", {"matched_weight": 2.0, "unmatched_weight": 0.0}, 2 * jsd([0.1, 0.2, 0.4], [0.6, 0.3, 0.1])),
    ],
)
def test_by_hand(name: str, config: dict[str, Any], by_hand: float) -> None:
    batch, outputs = one_position(STUDENT, STUDENT)
    batch["teacher_logits"] = one_position(TEACHER, TEACHER)[0]["teacher_logits"]
    assert value_and_gradient(registry.create(name, config), batch, outputs, "logits")[0].item() == pytest.approx(
        by_hand
    )


def test_cross_entropy_is_the_mean_of_row_means() -> None:
    batch, outputs = extended_case(1, other_vocabulary=3, sample_mask="floats", counts=True)
    plain = value_and_gradient("uld", batch, outputs, "logits")
    nll = value_and_gradient(registry.create("nll", {"aggregation": "seq_mean_token_mean"}), batch, outputs, "logits")
    both = value_and_gradient(registry.create("uld", {"crossentropy_weight": 0.3}), batch, outputs, "logits")
    torch.testing.assert_close(both[0], plain[0] + 0.3 * nll[0])
    torch.testing.assert_close(both[1], plain[1] + 0.3 * nll[1])
    del batch["input_ids"]
    with pytest.raises(KeyError, match="batch needs 'input_ids' where crossentropy_weight is above 0"):
        registry.create("uld", {"crossentropy_weight": 0.3}).compute_loss(batch, outputs)


def test_uld_cannot_tell_a_permutation() -> None:
    batch, outputs = extended_case(2)
    order = torch.tensor([3, 0, 4, 1, 2])
    confused = batch | {"teacher_logits": outputs["logits"][..., order].clone()}
    assert value_and_gradient("uld", confused, outputs, "logits")[0].item() == 0
    assert value_and_gradient("hybrid_uld", confused, outputs, "logits")[0].item() > 0.01
    known = registry.create("hybrid_uld", {"vocabulary_map": order.argsort().tolist()})
    value, gradient = value_and_gradient(known, confused, outputs, "logits")
    assert abs(value.item()) < 1e-15
    assert gradient.abs().max() < 1e-15


def test_uld_is_at_most_2() -> None:
    value, _ = value_and_gradient("uld", *one_position([90.0, 0.0, 0.0], [0.0, 0.0, 0.0]), "logits")
    assert value.item() == pytest.approx(2 * (1 - 1 / 3))
    spread, sure = torch.full((4000,), 1 / 4000), torch.tensor([1.0])
    assert sorted_l1(spread, sure).item() == pytest.approx(2, abs=1e-3)
    assert sorted_l1(torch.tensor([]), torch.tensor([])).item() == 0


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_hybrid_with_one_vocabulary_is_the_divergence(beta: float) -> None:
    batch, outputs = extended_case(3, rows=2, sample_mask=None)
    batch["token_mask"] = torch.ones_like(batch["token_mask"])
    got = value_and_gradient(registry.create("hybrid_uld", {"beta": beta}), batch, outputs, "logits")
    expected = value_and_gradient(registry.create("generalized_jsd", {"beta": beta}), batch, outputs, "logits")
    torch.testing.assert_close(got, expected)


def test_hybrid_end_points_may_be_negative() -> None:
    """Parts of distributions: the student has more probability on the matched token than the teacher."""
    batch, outputs = one_position([0.0, 0.0], [5.0, 0.0])
    loss = registry.create(
        "hybrid_uld", {"vocabulary_map": [0, -1], "beta": 0.0, "matched_weight": 1.0, "unmatched_weight": 0.0}
    )
    assert loss.contract.lower_bound == -math.inf
    assert value_and_gradient(loss, batch, outputs, "logits")[0].item() < -0.3
    inside = registry.create("hybrid_uld", {"vocabulary_map": [0, -1], "beta": 0.01})
    assert inside.contract.lower_bound == 0
    assert value_and_gradient(inside, batch, outputs, "logits")[0].item() > 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vocabulary_map": [0, 0, 1]}, "vocabulary_map gives the teacher's id 0 to more than one student id"),
        (
            {"vocabulary_map": [0, -2]},
            r"vocabulary_map=\[0, -2\]; expected a list with the teacher's id of each student id",
        ),
        ({"vocabulary_map": "01"}, "vocabulary_map='01'; expected a list"),
        ({"matched_weight": 1.0}, "matched_weight=1.0, unmatched_weight=None; expected both or neither"),
        ({"matched_weight": -1.0, "unmatched_weight": 1.0}, "matched_weight=-1.0 is out of range"),
    ],
)
def test_config_errors(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"HybridULDLoss: {message}"):
        registry.create("hybrid_uld", config)


def test_a_map_that_does_not_fit() -> None:
    batch, outputs = extended_case(4, other_vocabulary=3)
    with pytest.raises(ValueError, match="vocabulary_map has 2 entries; logits have 5 tokens"):
        registry.create("hybrid_uld", {"vocabulary_map": [0, 1]}).compute_loss(batch, outputs)
    with pytest.raises(ValueError, match="tokens up to 1 of the student and 3 of the teacher are matched; the voc"):
        registry.create("hybrid_uld", {"vocabulary_map": [0, 3, -1, -1, -1]}).compute_loss(batch, outputs)
    with pytest.raises(ValueError, match=r"teacher_logits has shape \(4, 5, 3\); expected \(4, 6, U\)"):
        registry.create("uld").compute_loss(batch | {"teacher_logits": batch["teacher_logits"][:, 1:]}, outputs)
