"""What Hypothesis draws: structure, regime and seed of a case. The numbers follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

__all__ = ["ORDINARY", "SITUATIONS", "Plan", "plans"]

VALUE_REGIMES: Final = (
    "typical",
    "on_policy",
    "off_policy",
    "saturated",
    "never_chosen",
    "certain",
    "ties",
    "zero_advantage",
)
SITUATIONS: Final = (
    *VALUE_REGIMES,
    "full",
    "holes",
    "one_token",
    "one_row",
    "square",
    "bare",
    "absent_rows",
    "all_masked",
    "all_absent",
)
"""Input situations by name: eight regimes of the values, then nine structures with ordinary values."""

ORDINARY: Final = ("typical", "full", "holes", "square", "absent_rows")
"""Situations in which every sound loss is smooth, finite and moves."""


@dataclass(frozen=True)
class Plan:
    """The recipe of one case.

    Attributes:
        situation: the entry of ``SITUATIONS`` it was drawn for.
        regime: how the values are made.
        rows: sequences, or pairs of them when the loss works on pairs.
        tokens, vocabulary, top_k, features, terms: S, V, K, D and N.
        mask: shape of the token mask.
        samples: shape of the sample mask.
        counts: whether ``global_valid_*`` and other optional inputs are given.
        seed: seed of the torch generator.
    """

    situation: str
    regime: str
    rows: int
    tokens: int
    vocabulary: int
    top_k: int
    features: int
    terms: int
    mask: str
    samples: str
    counts: bool
    seed: int

    @property
    def nothing_there(self) -> bool:
        """Whether there is nothing to learn: advantages of 0, no positive among targets in [0, 1], an embedding of no length."""
        return self.regime == "zero_advantage"


def plans(situation: str) -> SearchStrategy[Plan]:
    """Return the strategy of plans for one situation; it shrinks towards few rows, few tokens and seed 0."""
    regime = situation if situation in VALUE_REGIMES else "typical"
    rows = st.just(1) if situation == "one_row" else st.integers(2, 4)
    tokens = st.integers(3, 6)
    mask = st.sampled_from(("ragged", "prompt", "left", "holes"))
    samples = st.just("ones")
    counts = st.booleans()
    if situation == "full":
        mask = st.just("full")
    elif situation == "holes":
        mask, tokens = st.just("holes"), st.integers(4, 6)
    elif situation == "one_token":
        tokens, mask = st.just(2), st.just("full")
    elif situation == "bare":
        counts = st.just(False)
    elif situation == "absent_rows":
        samples, rows = st.sampled_from(("some", "fractions")), st.integers(2, 4)
    elif situation == "all_masked":
        mask, samples = st.just("none"), st.sampled_from(("ones", "none"))
    elif situation == "all_absent":
        samples = st.just("none")
    sizes = {
        "vocabulary": st.integers(3, 7),
        "top_k": st.integers(1, 3),
        "features": st.integers(2, 5),
        "terms": st.integers(1, 4),
    }
    return st.builds(
        Plan,
        situation=st.just(situation),
        regime=st.just(regime),
        rows=rows,
        tokens=tokens,
        mask=mask,
        samples=samples,
        counts=counts,
        seed=st.integers(0, 2**16),
        **sizes,
    )
