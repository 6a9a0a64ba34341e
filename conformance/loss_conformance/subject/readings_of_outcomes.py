"""Readings of losses of outcomes: how high on a scale, how long until an event, how much is still to come."""

from __future__ import annotations

from loss_conformance.cases.label_values import BOOLEAN, EVENTS
from loss_conformance.subject.reading import BINARY_TARGET, ROWS, Form, Forms, Reading

__all__ = ["readings_of_outcomes"]

_SHARE = {"low": 0.0, "high": 1.0}


def readings_of_outcomes(present: set[str]) -> list[Reading]:
    """Return the readings of such a loss; none where no parameter speaks of one."""
    if "levels" in present:
        return _of_levels()
    if "hazards" in present:
        return _of_hazards()
    if "risk" in present:
        return _of_risks()
    if "next_distribution" in present:
        return _of_next_distributions()
    if "quantiles" in present:
        quantiles: Forms = {"quantiles": ("values", "B Q", {}), "target": ("values", "B Q", {})}
        return [Reading("quantiles [B, Q] with quantiles", ROWS, quantiles)]
    return []


def _of_levels() -> list[Reading]:
    """Return the readings of ordinal losses: each threshold passed or not, or the level that was reached."""
    passed: Forms = {"prediction": ("values", "B D", {}), "levels": ("values", "B D", BINARY_TARGET)}
    reached: Forms = {"prediction": ("values", "B V", {}), "levels": ("token_ids", "B", {})}
    return [
        Reading("scores of thresholds [B, D] with levels 0 or 1", ROWS, passed),
        Reading("scores of thresholds [B, V] with levels [B]", ROWS, reached),
    ]


def _of_hazards() -> list[Reading]:
    """Return the readings of survival in intervals: the interval of each row, and whether more is known of it."""
    found = []
    # Other numbers are refused by what takes the logarithm of a hazard.
    for role, axes in (("values", "B V"), ("probabilities", "B V")):
        forms: Forms = {
            "hazards": (role, axes, {}),
            "interval": ("token_ids", "B", {}),
            "censored": ("labels", "B", {"high": 2.0}),
        }
        found.append(Reading(f"hazards of intervals, {role} [B, V]", ROWS, forms))
    return found


def _of_risks() -> list[Reading]:
    """Return the readings of proportional hazards: the time of each row, and whether the event came then."""
    events: list[Form] = [
        ("labels", "B", {"high": 2.0, "kind": EVENTS}),
        ("labels", "B", {"high": 2.0, "kind": BOOLEAN}),
    ]
    return [
        Reading(
            "one risk per row [B] with its time and event",
            ROWS,
            {"risk": ("values", "B", {"kind": "risk"}), "duration": ("values", "B", {"low": 0.0}), "event": event},
        )
        for event in events
    ]


def _of_next_distributions() -> list[Reading]:
    forms: Forms = {
        "prediction": ("logits", "B V", {}),
        "next_distribution": ("probabilities", "B V", {}),
        "rewards": ("rewards", "B", {}),
        "dones": ("values", "B", BINARY_TARGET),
        "discounts": ("values", "B", _SHARE),
    }
    return [Reading("distributions of values [B, V]", ROWS, forms)]
