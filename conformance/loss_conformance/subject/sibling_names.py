"""Names that say something only beside others: ``p`` and ``q``, ``mu`` and ``logvar``, ``d_real`` and ``d_fake``."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

__all__ = ["meaning_beside"]

_EMBEDDED: Final = (
    *({"a", "b"}, {"a", "p", "n"}, {"q", "k"}, {"q", "d"}, {"u", "v"}, {"h1", "h2"}, {"z_q", "z_e"}, {"user", "item"}),
    *({"query", "document"}, {"query", "doc"}, {"query", "passage"}, {"query", "positive"}, {"image", "text"}),
    *({"queries", "docs"}, {"images", "texts"}, {"images", "captions"}, {"quantized", "inputs"}),
)
"""Parameters that are embeddings when they stand together."""

_RECONSTRUCTIONS: Final = {"recon_x", "x_recon", "x_hat", "recon", "reconstruction", "reconstructed", "x_rec", "recons"}
_ORIGINALS: Final = {"x", "inputs", "input", "target", "image", "images", "data", "original"}
_MEANS: Final = {"mu", "mean", "z_mean", "means", "latent_mean", "q_mean", "mus"}
_DEVIATIONS: Final[dict[str, str]] = {
    **dict.fromkeys(("logvar", "log_var", "z_logvar", "z_log_var", "log_variance", "logvars"), "log_deviation"),
    **dict.fromkeys(("log_std", "logstd", "log_sigma", "log_sigmas", "logsigma"), "log_deviation"),
    **dict.fromkeys(("var", "variance", "std", "stddev", "sigma", "sigmas"), "deviation"),
}
_HIDDEN: Final = {"hidden_states", "hidden_state", "hidden", "last_hidden_state", "last_hidden_states", "_input", "x"}
_HEADS: Final = {"lm_head_weight", "lm_head", "weight", "output_weight", "linear_weight", "head_weight", "lin_weight"}
_LABELS: Final = {"labels", "label", "target", "targets", "y", "selected_token_ids", "input_ids"}
_DISTRIBUTIONS: Final = ({"p", "q"}, {"p_probs", "q_probs"}, {"probs_p", "probs_q"})
_LOG_DISTRIBUTIONS: Final = ({"log_p", "log_q"}, {"logp", "logq"}, {"p_log", "q_log"})
_NOISES: Final = {"noise", "eps", "epsilon"}
_CONFIDENCES: Final = {"confidence", "confidences"}
_LEVELS: Final = {"levels"}
_HAZARDS: Final = {"hazards", "hazard"}
_INTERVALS: Final = {"y", "label", "labels", "interval", "intervals"}
_CENSORED: Final = {"c", "censorship", "censored", "censoring", "is_censored"}
_RISKS: Final = {
    *("log_hazard", "log_hazards", "log_hz", "log_h", "log_risk", "log_risks"),
    *("risk", "risks", "risk_score", "risk_scores", "risk_pred", "hazard_pred"),
}
_TIMES: Final = {
    *("duration", "durations", "time", "times", "event_time", "event_times", "survival_time", "survival_times"),
}
_EVENTS: Final = {"event", "events", "event_observed", "event_indicator", "event_indicators", "is_event"}
_NEXT_DISTRIBUTIONS: Final = {"next_pmfs", "next_pmf", "next_probs", "next_dist", "next_distribution"}
_PREDICTED_MASSES: Final = {"pmfs", "pmf", "old_pmfs", "pred_pmfs", "current_pmfs"}
_PREDICTED_QUANTILES: Final = {"quantiles", "current_quantiles", "pred_quantiles", "predicted_quantiles"}
_NEXT_LOGPROBS: Final = {
    *("next_state_log_pi", "next_log_pi", "next_log_prob", "next_log_probs", "next_logp", "next_actions_log_prob"),
}
_WANTED_VALUES: Final = {"target_q", "q_target", "target_v", "v_target", "td_target", "target_value"}
_SCORED: Final = {"scores", "predictions", "preds", "pred", "outputs"}
_EARLIER_SCORES: Final = {"old_logits", "prev_logits", "behavior_logits", "behaviour_logits", "initial_logits"}
_OWN_SCORES: Final = {"logits", "new_logits", "policy_logits", "current_logits"}
_ENDS_OF_A_PATH: Final = (
    {"x0", "x1"},
    {"x_0", "x_1"},
    {"noise", "x0"},
    {"x0", "noise"},
    {"noise", "x1"},
    {"data", "noise"},
)
_RELEVANCES: Final = {"relevance", "relevances", "rel", "relevance_labels", "graded_relevance", "gains"}
_OWN_VALUES: Final = {"q", "q_value", "min_q", "q_min", "q_new_actions", "qf_pi", "min_qf_pi", "q_pi"}
_ACTION_LOGPROBS: Final = {"log_pi", "logp_pi", "log_prob", "log_probs", "logp", "log_prob_pi"}
_SEQUENCES: Final = {"sequence_ids", "seq_ids", "seq_idx"}
_LENGTHS: Final = {"input_lengths", "target_lengths"}


_OF_ONE_SIDE: Final = re.compile(
    r"((?:policy|model|reference|ref)_)?(chosen|rejected)_(?:(logits)|(labels|target_ids|targets)|(ids|input_ids|token_ids|tokens))"
)


def meaning_beside(parameter: str, beside: Collection[str]) -> str | None:
    """Return what a required parameter means among all required ones, or ``None`` where they say nothing together."""
    name, names = parameter.lower(), {each.lower() for each in beside}
    for meaning, found in _together(names):
        if name in found:
            return meaning
    return _DEVIATIONS.get(name) if names & _MEANS else None


def _together(names: set[str]) -> list[tuple[str, set[str]]]:
    """Return the meanings these names have because they stand together, each with its names."""
    found = [("embedding", each) for each in _EMBEDDED if each <= names and (len(names) == 2 or each != {"a", "b"})]
    guides = {name for name in names if name.startswith("guide_") and name.removeprefix("guide_") in names}
    found.append(("teacher_embedding", guides))
    if any(meaning == "embedding" for meaning, _ in found):
        found.append(("confidence", _CONFIDENCES))
    if names & _DEVIATIONS.keys():
        found.append(("mean", _MEANS))
    if names & _RECONSTRUCTIONS and names & _ORIGINALS:
        found += [("prediction", _RECONSTRUCTIONS), ("target", _ORIGINALS - _RECONSTRUCTIONS)]
    if names & _HIDDEN and names & _HEADS and names & _LABELS:
        found += [("hidden", _HIDDEN), ("head", _HEADS)]
    found += [("student_probabilities", each) for each in _DISTRIBUTIONS if each <= names]
    found += [("student_logprobs", each) for each in _LOG_DISTRIBUTIONS if each <= names]
    if {"draft_logits", "target_logits"} <= names:
        found += [("student", {"draft_logits"}), ("teacher", {"target_logits"})]
    if names & _EARLIER_SCORES and names & _OWN_SCORES:
        found += [("student", _OWN_SCORES), ("teacher", _EARLIER_SCORES)]
    if any(name.startswith(("v_", "velocity", "flow", "model_")) for name in names):
        found += [("target", ends) for ends in _ENDS_OF_A_PATH if ends <= names]
    if names & _NOISES and any("pred" in name or "theta" in name for name in names):
        found += [("target", _NOISES)]
    if {"labels", "target", "targets"} & names and names >= _LENGTHS:
        found += [("spelled", {"labels", "target", "targets"})]
    if {"q_values", "q"} & names or any("logit" in name or "score" in name for name in names):
        found += [("target", {"actions", "action"})]
    return found + _sides(names) + _outcomes(names) + _steps(names)


def _sides(names: set[str]) -> list[tuple[str, set[str]]]:
    """Return the same for the scores of both answers of a pair, where the tokens that were scored stand beside them."""
    found: list[tuple[str, set[str]]] = []
    for name in names:
        said = _OF_ONE_SIDE.fullmatch(name)
        if said is not None:
            whose, side, logits, labels, _ = said.groups()
            what = "logits" if logits else "labels" if labels else "ids"
            reference = "reference_" if whose in ("reference_", "ref_") else ""
            found.append((f"pair.{reference}{side}_{what}", {name}))
    meanings = {meaning for meaning, _ in found}
    whole = all(f"pair.{side}_logits" in meanings for side in ("chosen", "rejected"))
    spelled = any({f"pair.{side}_{what}" for side in ("chosen", "rejected")} <= meanings for what in ("labels", "ids"))
    return found if whole and spelled else []


def _outcomes(names: set[str]) -> list[tuple[str, set[str]]]:
    """Return the same for scales, attributes, times until an event, and distributions of values."""
    found: list[tuple[str, set[str]]] = []
    if any("logit" in name for name in names):
        found += [("levels", _LEVELS), ("next_distribution", _NEXT_DISTRIBUTIONS)]
    if names & _HAZARDS and names & _INTERVALS and names & _CENSORED:
        found += [("hazards", _HAZARDS), ("interval", _INTERVALS), ("censored", _CENSORED)]
    if names & _RISKS and names & _TIMES and names & _EVENTS:
        found += [("risk", _RISKS), ("duration", _TIMES), ("event", _EVENTS)]
    if "target_pmfs" in names and names & _PREDICTED_MASSES:
        found += [("student_probabilities", _PREDICTED_MASSES), ("teacher_probabilities", {"target_pmfs"})]
    if "target_quantiles" in names and names & _PREDICTED_QUANTILES:
        found += [("quantiles", _PREDICTED_QUANTILES)]
    if names & _RELEVANCES and names & _SCORED:
        graded = "ratings" if any("mask" in name for name in names) else "target"
        found += [("prediction", _SCORED), (graded, _RELEVANCES)]
    if {"attributes", "rated"} <= names and names & _SCORED:
        found += [("ratings", {"attributes"}), ("token_mask", {"rated"}), ("prediction", _SCORED)]
    return found


def _steps(names: set[str]) -> list[tuple[str, set[str]]]:
    """Return the same for steps of an episode, and for rows that hold several sequences."""
    found: list[tuple[str, set[str]]] = []
    if {"labels", "logits"} <= names:
        found.append(("documents", _SEQUENCES))
    if "v" in names and names & {*_WANTED_VALUES, "q"}:
        found += [("action_values", {"v"}), ("target", {*_WANTED_VALUES, "q"})]
    elif names & _OWN_VALUES and names & _ACTION_LOGPROBS:
        found += [("action_values", _OWN_VALUES), ("logprobs", _ACTION_LOGPROBS)]
    if any(name.startswith(("q", "current_q")) for name in names):
        found.append(("next_action_logprobs", _NEXT_LOGPROBS))
    if names & _ACTION_LOGPROBS and any("mask" in name for name in names):
        found.append(("rewards", {"scores", "score"}))  # what a judge gave an answer
    if {"rewards", "discounts"} <= names:
        along = any("log_prob" in name or "logp" in name for name in names - _NEXT_LOGPROBS) and "values" in names
        found += [("token_rewards", {"rewards"}), ("token_discounts", {"discounts"})] if along else []
        found += [("old_values", {"values"})] if along else [("discounts", {"discounts"})]
    return found
