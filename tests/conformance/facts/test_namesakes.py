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


@pytest.mark.parametrize(
    ("docstring", "bears"),
    [
        ("DPO on the logits of both completions; prompt tokens do not count.", "dpo"),
        ("Sequence-level (GSPO) actor loss.", "gspo"),
        ("Mean over tokens. Unlike DPO it needs no reference.", None),
        ("Cross-entropy of the next token.", None),
        ("DPO with a margin.", None),
        (None, None),
    ],
)
def test_the_first_clause_of_the_docstring_names_what_the_name_does_not(
    docstring: str | None, bears: str | None
) -> None:
    def my_loss(input, target):  # type: ignore[no-untyped-def]
        return ((input - target) ** 2).mean()

    def ipo_loss(input, target):  # type: ignore[no-untyped-def]
        return ((input - target) ** 2).mean()

    my_loss.__doc__ = ipo_loss.__doc__ = docstring
    assert namesakes(load_subject(my_loss))[:1] == ((bears,) if bears else ())
    assert namesakes(load_subject(ipo_loss)) == ("ipo",)


def test_references_and_what_subclasses_them_bear_none() -> None:
    class DPOOfMine(DPOLoss):
        pass

    assert namesakes(load_subject(create_loss_function({"type": "ipo"}))) == ()
    assert namesakes(load_subject(DPOOfMine)) == ()
