"""Readings of preference losses: one number per side of a pair, one per token of each side, rows judged good or bad."""

from __future__ import annotations

from dataclasses import replace

from loss_conformance.cases.label_values import BOOLEAN
from loss_conformance.subject.reading import ALIGNED, ROWS, Form, Forms, Reading

__all__ = ["readings_of_judged_rows", "readings_of_pairs"]


def readings_of_pairs(present: set[str], ignore: int | None) -> list[Reading]:
    """Return the readings of a loss that compares a chosen with a rejected answer."""
    numbers: dict[str, Form] = {
        "margin": ("values", "B", {"kind": "pair.margin"}),
        "negative_loglikelihood": ("values", "B", {"low": 0.0}),
        "difference": ("values", "B", {}),
        "reference_difference": ("scalar", "B", {}),
        "tie": ("labels", "B", {"high": 2.0}),
        **{f"pair.{side}_lengths": ("lengths", "B", {"low": 1.0, "high": 9.0}) for side in ("chosen", "rejected")},
    }
    rows = Reading("one number per pair [B]", ROWS, numbers)
    if present & {"desirable", "target"}:
        return [replace(each, forms={**numbers, **each.forms}) for each in readings_of_judged_rows()]
    if "pair.chosen_logits" in present:
        return [
            Reading("scores of both answers [B, S, V] and their tokens [B, S]", ALIGNED, {**numbers, **_scored(ignore)})
        ]
    if "token_mask" not in present:
        heads: Forms = {f"pair.{side}_rewards": ("values", "B D", {}) for side in ("chosen", "rejected")}
        ensemble = Reading("one number per head of each side [B, D]", ROWS, {**numbers, **heads})
        return [rows, ensemble] if present == heads.keys() else [rows]
    tokens: Forms = {
        **numbers,
        **{meaning: ("logprobs", "B S", {"kind": "logprobs"}) for meaning in present if meaning.endswith("_logps")},
        **{meaning: ("values", "B S", {"kind": "values"}) for meaning in present if meaning.endswith("_rewards")},
    }
    return [Reading("one number per token of each side [B, S]", ALIGNED, tokens), rows]


def _scored(ignore: int | None) -> Forms:
    """Return the forms of the scores of each answer, and of the labels or tokens that were scored."""
    of_one: dict[str, Form] = {
        "logits": ("logits", "B S V", {"kind": "logits"}),
        "labels": ("labels", "B S", {"ignore": -100 if ignore is None else ignore}),
        "ids": ("token_ids", "B S", {}),
    }
    sides = [f"{whose}{side}" for whose in ("", "reference_") for side in ("chosen", "rejected")]
    return {f"pair.{side}_{what}": form for side in sides for what, form in of_one.items()}


def readings_of_judged_rows() -> list[Reading]:
    """Return the readings of a loss of answers, each of which was judged good or bad."""
    judged: list[Form] = [("labels", "B", {"high": 2.0}), ("labels", "B", {"high": 2.0, "kind": BOOLEAN})]
    return [Reading("one number per judged answer [B]", ROWS, {"desirable": form, "target": form}) for form in judged]
