"""The reference a loss is named after."""

from __future__ import annotations

import pytest

from loss_conformance.facts.namesakes import namesakes
from loss_conformance.subject.load import load_subject
from loss_reference import DPOLoss, create_loss_function


def named(name: str) -> tuple[str, ...]:
    def loss(input, target):  # type: ignore[no-untyped-def]
        return ((input - target) ** 2).mean()

    loss.__name__ = name
    return namesakes(load_subject(loss))


@pytest.mark.parametrize(
    ("name", "bears"),
    [
        ("IPOLoss", "ipo"),
        ("MyIPOHalf", "ipo"),
        ("compute_ppo_loss", "ppo_clip"),
        ("NTXentLoss", "ntxent"),
        ("nt_xent", "ntxent"),
        ("kl_k3_loss", "kl_k3"),
        ("DrGRPO", "dr_grpo"),
        ("cdpo_smoothing", "cdpo"),
        ("SimPOLoss", "simpo"),
        ("reverse_kl", "reverse_kl"),
    ],
)
def test_a_name_bears_the_longest_reference_in_it(name: str, bears: str) -> None:
    assert bears in named(name)


@pytest.mark.parametrize(
    "name",
    [
        "adopted",
        "DPOWithMargin",
        "WeightedDPO",
        "ZLossCE",
        "PolyCrossEntropy",
        "ValueRanking",
        "MyLoss",
        "InfoNCE",
        "loss",
    ],
)
def test_a_part_of_a_word_or_of_a_composition_is_no_name(name: str) -> None:
    assert named(name) == ()


def test_references_and_what_subclasses_them_bear_none() -> None:
    class DPOOfMine(DPOLoss):
        pass

    assert namesakes(load_subject(create_loss_function({"type": "ipo"}))) == ()
    assert namesakes(load_subject(DPOOfMine)) == ()
