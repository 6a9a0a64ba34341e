"""Readings of losses that are not about tokens: routers, judges of real and fake, codes, noise, action values, heads."""

from __future__ import annotations

from loss_conformance.subject.reading import ALIGNED, BINARY_TARGET, ROWS, Form, Forms, Reading, elementwise
from loss_conformance.subject.readings_of_outcomes import readings_of_outcomes
from loss_conformance.subject.torch_slots import CTC_FRAMES, CTC_TARGET

__all__ = ["readings_elsewhere"]


def readings_elsewhere(present: set[str], ignore: int | None) -> list[Reading]:
    """Return the readings of such a loss; none where no parameter speaks of one."""
    if present & {"router", "router_probabilities"}:
        return _of_routers()
    if "judgement" in present:
        return [
            Reading(f"one score per sample [{axes}]", ROWS, {"judgement": ("values", axes, {})})
            for axes in ("B", "B 1")
        ]
    if "hidden" in present and "head" in present:
        return _of_heads(ignore)
    if present & {"mean", "log_deviation", "deviation"}:
        return _of_densities()
    if "spelled" in present:
        return _of_spellings()
    if present & {"action_values", "next_action_values"}:
        return _of_action_values(present)
    if "similarity" in present:
        return [Reading("similarities of four rows [4, 4]", ROWS, {"similarity": ("values", "4 4", {})})]
    if present & {"snr", "log_snr", "timesteps"}:
        return _of_noise()
    return readings_of_outcomes(present)


def _of_routers() -> list[Reading]:
    found = []
    for words, shape, grid in (("tokens [B]", "B", ROWS), ("tokens [B, S]", "B S", ALIGNED)):
        for chosen in ("", " K"):
            forms: Forms = {
                "router": ("logits", f"{shape} V", {"kind": "router"}),
                "router_probabilities": ("probabilities", f"{shape} V", {"kind": "router_probabilities"}),
                "experts": ("token_ids", shape + chosen, {}),
                "expert_mask": ("values", f"{shape} V", BINARY_TARGET),
            }
            found.append(Reading(f"experts of {words}", grid, forms))
    return found


def _of_heads(ignore: int | None) -> list[Reading]:
    label = -100 if ignore is None else ignore
    head: Form = ("values", "V D", {})
    tokens: Forms = {
        "hidden": ("embeddings", "B S D", {}),
        "head": head,
        "target": ("labels", "B S", {"kind": "batch.input_ids", "ignore": label}),
    }
    rows: Forms = {"hidden": ("embeddings", "B D", {}), "head": head, "target": ("labels", "B", {"ignore": label})}
    return [
        Reading("hidden states [B, S, D] with token ids [B, S]", ALIGNED, tokens),
        Reading("hidden states [B, D] with class ids [B]", ROWS, rows),
    ]


def _of_densities() -> list[Reading]:
    code: dict[str, Form] = {
        "mean": ("values", "B D", {}),
        "log_deviation": ("values", "B D", {"low": -8.0, "high": 4.0}),
        "deviation": ("values", "B D", {"low": 0.25}),
    }
    pixels = {"low": 0.0, "high": 1.0}
    inputs = [
        elementwise("probabilities [B, D] with values in [0, 1]", "probabilities", "B D", pixels),
        elementwise("values [B, D] with values [B, D]", "values", "B D", {}),
    ]
    return [Reading(f"{each.name} and their code [B, D]", ROWS, {**each.forms, **code}) for each in inputs]


def _of_spellings() -> list[Reading]:
    """Return the readings of connectionist temporal classification: frames of classes, and what they spell."""
    spelled: dict[str, Form] = {
        "spelled": ("labels", f"B {CTC_TARGET}", {"low": 1.0}),
        "input_lengths": ("lengths", "B", {"low": 2.0 * CTC_TARGET, "high": CTC_FRAMES + 1.0}),
        "target_lengths": ("lengths", "B", {"low": 1.0, "high": CTC_TARGET + 1.0}),
    }
    return [
        Reading(
            f"frames [{axes}]",
            ROWS,
            {**spelled, "logprobs": ("logprobs", axes, {}), "prediction": ("logits", axes, {})},
        )
        for axes in (f"{CTC_FRAMES} B V", f"B {CTC_FRAMES} V")
    ]


def _of_action_values(present: set[str]) -> list[Reading]:
    shape = "B V" if "next_action_values" in present or present & {"target"} else "B"
    targets: tuple[tuple[str, Form], ...] = (
        (shape, ("labels", "B", {})),
        ("B", ("values", "B", {})),
        ("B V", ("values", "B V", {})),
    )
    found = []
    for axes, target in targets:
        forms: Forms = {
            "action_values": ("values", axes, {}),
            "next_action_values": ("values", axes, {}),
            "target": target,
            "dones": ("values", "B", BINARY_TARGET),
            "rewards": ("values", "B", {}),
            "next_action_logprobs": ("logprobs", "B", {}),
            "logprobs": ("logprobs", "B", {}),
            "discounts": ("values", "B", {"low": 0.0, "high": 1.0}),
        }
        found.append(Reading(f"values of actions [{axes}]", ROWS, forms))
    return found


def _of_noise() -> list[Reading]:
    found = []
    for shape in ("B D", "B 3 4 4"):
        each = elementwise(f"values [{shape}] with values", "values", shape, {})
        forms: Forms = {
            **each.forms,
            "snr": ("values", "B", {"low": 0.25}),
            "log_snr": ("values", "B", {}),
            "timesteps": ("labels", "B", {}),
        }
        found.append(Reading(f"{each.name} and a noise level [B]", ROWS, forms))
    return found
