"""Contracts merge, strongest first; what nobody wrote down is inferred."""

import pytest

from loss_conformance.facts.facts import INHERITABLE, gather
from loss_reference import Contract, Field, Option

PARENT = "inherited from Parent"


def test_the_strongest_source_wins() -> None:
    facts = gather([("declared", Contract(family="value")), (PARENT, Contract(family="reward", level="token"))], {})
    assert (facts.contract.family, facts.contract.level) == ("value", "token")
    assert facts.origin == {"family": "declared", "level": PARENT}


def test_a_default_that_was_written_down_wins_too() -> None:
    facts = gather([("declared", Contract(empty="zero")), (PARENT, Contract(empty="nan"))], {})
    assert facts.contract.empty == "zero"


def test_a_default_that_was_not_written_down_does_not() -> None:
    facts = gather([("declared", Contract(family="value")), (PARENT, Contract(empty="nan", coupled=True))], {})
    assert facts.contract.empty == "nan"
    assert facts.contract.coupled


def test_none_is_no_promise() -> None:
    facts = gather([("declared", Contract(lower_bound=None)), (PARENT, Contract(lower_bound=0.0))], {})
    assert facts.contract.lower_bound == 0.0


def test_a_baseline_is_not_inherited() -> None:
    assert "baseline" not in INHERITABLE
    facts = gather([("declared", Contract(level="pair")), (PARENT, Contract(baseline="dpo"))], {})
    assert facts.contract.baseline is None
    assert gather([("declared", Contract(baseline="dpo"))], {}).contract.baseline == "dpo"


@pytest.mark.parametrize(
    ("fact", "own", "parents", "merged"),
    [
        ("direction", {"beta": 1}, {"beta": -1, "margin": 1}, {"beta": 1, "margin": 1}),
        ("options", {"beta": Option((1.0,))}, {"gamma": Option(())}, {"beta": Option((1.0,)), "gamma": Option(())}),
        (
            "fields",
            {"mine": Field("values", "B")},
            {"theirs": Field("mask", "B S")},
            {"mine": Field("values", "B"), "theirs": Field("mask", "B S")},
        ),
        ("exempt", {"padding": "mine"}, {"padding": "theirs", "quiet": "too"}, {"padding": "mine", "quiet": "too"}),
    ],
)
def test_tables_are_merged_entry_by_entry(fact: str, own: object, parents: object, merged: object) -> None:
    facts = gather([("declared", Contract(**{fact: own})), (PARENT, Contract(**{fact: parents}))], {})
    assert getattr(facts.contract, fact) == merged
    assert facts.origin[fact] == "declared"


def test_inference_fills_gaps_alone() -> None:
    inferred = {"family": ("value", "it reads values"), "level": ("token", "so")}
    facts = gather([("declared", Contract(family="reward"))], inferred)
    assert (facts.contract.family, facts.contract.level) == ("reward", "token")
    assert (facts.promised("family"), facts.promised("level"), facts.promised("empty")) == (True, False, False)


def test_any_promised() -> None:
    assert not gather([], {"family": ("value", "so")}).any_promised
    assert gather([(PARENT, Contract(level="pair"))], {"family": ("value", "so")}).any_promised


def test_lines_say_where_each_fact_comes_from() -> None:
    declared = Contract(family="value", options={"clip": Option((0.1,)), "scale": Option(())})
    facts = gather([("declared", declared), (PARENT, Contract(lower_bound=0.0))], {"level": ("token", "so")})
    assert facts.lines() == (
        "family = 'value' (declared)",
        "options = {clip, scale} (declared)",
        "lower_bound = 0.0 (inherited from Parent)",
        "level = 'token' (inferred: so)",
    )
