"""A case in words: sizes, masks and seed, short enough to read."""

from __future__ import annotations

from loss_conformance.cases.case import Case
from loss_conformance.report.numbers import small_tensor

__all__ = ["describe_case", "sizes"]


def describe_case(case: Case, seed: int, steps: int = 0) -> str:
    """Return e.g. ``B=2 S=3, token_mask=[[0,1,0],[0,1,1]]   (seed 12, shrunk in 9 steps)``."""
    masks = [f"{slot.name}={small_tensor(case.tensor(slot))}" for slot in case.slots() if slot.role == "mask"]
    where = f"situation {case.plan.situation}, seed {seed}" if case.plan else "your own batch"
    shrunk = f", shrunk in {steps} steps" if steps else ""
    return ", ".join([sizes(case), *masks]) + f"   ({where}{shrunk})"


def sizes(case: Case) -> str:
    """Return the size of every axis the case has: ``B=2 S=3 V=5``."""
    found: dict[str, int] = {}
    for slot in case.slots():
        for letter, size in zip(slot.shape, case.tensor(slot).shape, strict=False):
            if letter != "S-1" and not letter.isdigit():
                found.setdefault(letter, size)
            elif letter == "S-1":
                found.setdefault("S", size + 1)
    return " ".join(f"{letter}={size}" for letter, size in sorted(found.items()))
