"""What a parameter means by its name: the names used in TRL, verl, OpenRLHF, torchtune, Liger and plain torch code."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from loss_conformance.cases.documents import SAYS_WHICH_DOCUMENT
from loss_conformance.subject.sibling_names import meaning_beside
from loss_conformance.subject.written_names import BATCHES, bare, holder_of
from loss_reference.names import nearest_name

__all__ = ["SIZES", "TRAINABLE", "loose_meaning", "meaning_of", "meanings_of", "nearest_known"]

_OLD: Final = {"old", "prev", "previous", "behavior", "behaviour", "proximal", "prox"}
_REFERENCE: Final = {"ref", "reference", "base", "frozen"}
_GENERATION: Final = {"rollout", "generation", "generator", "gen", "vllm", "sampling", "sampler", "inference", "infer"}
_POLICY: Final = {"new", "current", "curr", "policy", "pi", "actor", "model", "student", "trainer"}
_FILLER: Final = {"per", "token", "tokens", "next", "action", "actions", "seq", "sequence", "response", "responses"}
_FILLER_MORE: Final = {"completion", "completions", "all", "batch", "input", "inputs", "selected", "sum", "avg", "mean"}

# Whole names, after `canonical`, and what they mean.
_WORDS: Final[dict[str, str]] = {
    "advantages": "advantages adv advs advantage gae adv_t a_t",
    "returns": "returns return ret rets value_target value_targets target_value target_values values_target",
    "old_values": "old_values old_value phi_old_values prev_values values_old value_old baseline baselines",
    "values": "values value vpreds vpred value_preds value_pred predicted_values new_values phi_values critic_values",
    "entropy": "entropy entropies per_token_entropy token_entropy",
    "rewards": "rewards reward reward_scores sequence_rewards seq_rewards episode_rewards outcome_rewards",
    "negative_loglikelihood": "policy_nll_loss nll_loss nll sft_loss chosen_nll_loss",
    "token_rewards": "token_level_rewards token_level_scores token_rewards per_token_rewards",
    "tie": "is_tie is_tied",
    "rows_there": "valid_pairs",
    "rows_mask": "sample_mask row_mask rows_mask seq_mask sequence_mask loss_multiplier",
    "row_weights": "sample_weight sample_weights example_weight example_weights instance_weights",
    "ratio": "ratio ratios importance_ratio importance_ratios importance_weights is_ratio prob_ratio",
    "log_ratio": "log_ratio log_ratios logratio logratios",
    "token_weights": "rollout_is_weights is_weights vllm_is_ratio importance_sampling_ratio tis_weights",
    "difference": "pi_logratios pi_logratio policy_logratios model_logratios",
    "reference_difference": "ref_logratios ref_logratio reference_logratios",
    "desirable": "labels_desirable is_desirable desirable kto_labels is_chosen binary_labels",
    "pair_ids": "yw_idxs yl_idxs yw_ids yl_ids chosen_idxs rejected_idxs chosen_idx rejected_idx",
    "router": "router_logits gate_logits gating_logits routing_logits router_scores",
    "router_probabilities": "router_probs gate_probs gating_probs routing_probs router_probabilities",
    "experts": "expert_indices expert_index selected_experts expert_ids topk_experts top_k_experts",
    "expert_mask": "expert_mask expert_one_hot dispatch_mask",
    "action_values": "q_values q_pred q_preds current_q current_q_values q_value q1_values q2_values "
    "qf1_a_values qf2_a_values q1 q2 qf1 qf2 qf1_pi qf2_pi min_qf_pi q_pi "
    "qf1_values qf2_values q1_pred q2_pred current_q1 current_q2",
    "next_action_values": "next_q1 next_q2 q1_next q2_next target_q1 target_q2 next_qf1 next_qf2 "
    "next_q_values target_next_q_values next_q min_qf_next_target min_next_q",
    "dones": "dones done terminals terminated",
    "snr": "snr snrs",
    "log_snr": "log_snr logsnr",
    "similarity": "similarity similarities similarity_matrix sim_matrix sims logits_per_image logits_per_text "
    "logits_per_query logits_per_audio",
    "timesteps": "timesteps timestep",
    "input_lengths": "input_lengths",
    "target_lengths": "target_lengths",
    "input_ids": "input_ids token_ids action_ids response_ids completion_ids",
    "margin": "margin margins",
    "student": "student_logits student_logit logits_student s_logits logits_s y_s student student_outputs outputs_student",
    "teacher": "teacher_logits teacher_logit logits_teacher t_logits logits_t y_t teacher teacher_outputs outputs_teacher "
    "ref_logits reference_logits ref_model_logits base_logits",
    "student_probabilities": "student_probs student_prob",
    "teacher_probabilities": "teacher_probs teacher_prob",
    "embedding": "anchor anchors positive positives negative negatives query queries key keys pos neg features embeddings "
    "embedding feats x1 x2 input1 input2 z1 z2 z_i z_j zis zjs emb1 emb2 emb_i emb_j output1 output2 image_features "
    "text_features image_embeds text_embeds image_embeddings text_embeddings positive_key positive_keys negative_key "
    "negative_keys x_features y_features anchor_embeddings query_embeddings key_embeddings z documents passages document "
    "passage captions caption texts",
    "scale": "logit_scale inverse_temperature",
    "bias": "logit_bias",
    "probabilities": "probs prob probabilities probability p",
    "prediction": "input inputs inp logits logit pred preds prediction predictions output outputs y_pred y_preds y_hat yhat "
    "score scores x out estimate forecast recon reconstruction model_output predicted student_output img image images "
    "noise_pred token_logits y_pr pred_noise model_pred model_out eps_pred eps_theta v_pred velocity_pred unet_output",
    "target": "target targets label labels y y_true gt ground_truth truth tgt class_labels true actual gold y_target "
    "target_labels target_q target_q_values q_target q_targets td_target td_targets start_positions end_positions "
    "y_gt noise_target velocity_target target_ids target_tokens label_ids",
}
_MEANINGS: Final = {name: meaning for meaning, names in _WORDS.items() for name in names.split()}

# One of several like it: views of a batch by number or letter, and two images of which the second is the wanted one.
_VIEW: Final = re.compile(
    r"(z|x|h|out|output|emb|embed|embedding|feat|feature|features|rep|view|proj)s?_?([0-9]|[abij]|left|right)"
)
_IMAGE: Final = re.compile(r"(img|image|im)_?([ab0-2])")

# Words that say what a longer name means, the strongest first, and words after which they say nothing.
_SAID: Final = {
    "prediction": {
        "pred",
        "preds",
        "predicted",
        "est",
        "estimate",
        "estimated",
        "estimates",
        "hat",
        "output",
        "outputs",
        "score",
        "scores",
    },
    "target": {"target", "targets", "label", "labels", "gt", "true", "truth", "tgt"},
    "embedding": {"embedding", "embeddings", "embeds", "emb", "embs"},
}
_OF_ANOTHER_KIND: Final = {
    *("num", "n", "len", "lens", "length", "lengths", "weight", "weights", "size", "mask", "id", "ids", "index", "box"),
    *(
        "bbox",
        "boxes",
        "bboxes",
        "dist",
        "logp",
        "student",
        "teacher",
        "smoothing",
        "name",
        "names",
        "fn",
        "mode",
        "pos",
    ),
    *(
        "neg",
        "token",
        "tokens",
        "model",
        "type",
        "lr",
        "std",
        "var",
        "variance",
        "sigma",
        "sigmas",
        "kpts",
        "keypoints",
    ),
}
_HOW_MANY: Final = {"num", "n", "number", "count", "total", "nr", "global"}
_COUNTED: Final = {
    *("boxes", "masks", "items", "tokens", "toks", "seqs", "sequences", "samples", "pairs", "instances", "objects"),
    *("elements", "valid", "examples", "positives"),
}
_CHOSEN: Final = {"chosen", "preferred", "winner", "winning", "win", "yw", "accepted"}
_REJECTED: Final = {"rejected", "reject", "dispreferred", "unpreferred", "loser", "losing", "lose", "yl"}
_BETTER: Final = {*_CHOSEN, "pos", "positive", "w"}
_WORSE: Final = {*_REJECTED, "neg", "negative", "l"}
_SCORED: Final = {"logit", "logits", "score", "scores", "pred", "preds", "rewards", "reward"}

_JUDGED: Final = {
    "d",
    "disc",
    "discriminator",
    "critic",
    "logit",
    "logits",
    "score",
    "scores",
    "pred",
    "preds",
    "validity",
}
_EMBEDDED_THINGS: Final = {
    *("anchor", "pos", "positive", "neg", "negative", "query", "key", "doc", "document", "passage", "item", "user"),
    *("image", "text", "audio", "video", "sentence", "source"),
}
_HIDDEN: Final = {"hidden", "hiddens", "feature", "features", "feat", "feats", "rep", "reps", *_SAID["embedding"]}
_BETWEEN_ROWS: Final = {"image", "text", "similarity", "sim"}
_ROUTING: Final = {"router", "gate", "gating", "gates"}
# Settings, and outputs with axes of their own.
_NO_SCORES: Final = {
    *("temp", "temperature", "tau", "t", "dim", "dims", "channels", "config", "momentum", "centre", "center"),
    *("view", "views", "crop", "crops"),
}
_EXAMPLES: Final = (
    *_MEANINGS,
    *("log_probs", "old_log_probs", "ref_log_probs", "rollout_log_probs", "response_mask", "action_mask", "loss_mask"),
    *("policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps"),
    *("chosen_rewards", "rejected_rewards", "teacher_log_probs", "student_log_probs"),
)

TRAINABLE: Final = frozenset(
    {
        *("logprobs", "values", "entropy", "student", "student_probabilities", "student_logprobs", "embedding"),
        *("scale", "bias", "probabilities", "prediction", "pair.policy_chosen_logps", "pair.policy_rejected_logps"),
        *("ratio", "log_ratio", "difference", "router", "router_probabilities", "judgement", "mean", "deviation"),
        *("log_deviation", "action_values", "hidden", "head", "negative_loglikelihood", "quantiles", "hazards", "risk"),
        *("similarity", "pair.policy_other_logps", "pair.chosen_rewards", "pair.rejected_rewards"),
    }
)
"""Meanings of what a model computes: these receive gradient, everything else is constant."""


_BEFORE: Final = {"logprobs": "old_logprobs", "values": "old_values"}

SIZES: Final = dict.fromkeys(("vocab_size", "num_classes", "n_classes", "num_labels", "vocabulary_size"), "V")
"""Parameters that repeat the size of an axis of another input."""


def meanings_of(parameters: Iterable[str]) -> dict[str, str | None]:
    """Return what each parameter means beside the others: of two kinds of values, those called so are the old ones.

    What a batch holds was there before the step: beside outputs of the model its log-probabilities are the old ones.
    """
    written = list(parameters)
    found = _meanings_together([bare(name) for name in written])
    places = {holder_of(name) for name in written}
    before = {name for name in written if len(places) > 1 and holder_of(name) in BATCHES}
    meanings = {name: found[bare(name)] for name in written}
    return {name: _BEFORE.get(m or "", m) if name in before else m for name, m in meanings.items()}


def _meanings_together(names: list[str]) -> dict[str, str | None]:
    found = {name: meaning_beside(name, names) or meaning_of(name) or loose_meaning(name, names) for name in names}
    if "target" in found.values():
        # What a label points at may be a row of another embedding than its own.
        found |= {p: None for p, meaning in found.items() if meaning == "embedding" and meaning_of(p) is None}
    if list(found.values()).count("values") > 1:
        found |= {name: "old_values" for name in found if name in ("values", "value")}
    images = [name for name in found if _IMAGE.fullmatch(_canonical(name))]
    if len(images) == 2:
        found[images[1]] = "target"
    if {"p", "z"} <= found.keys():
        found["p"] = "embedding"  # a prediction of the other view
    predictions = [name for name, meaning in found.items() if meaning == "prediction"]
    if "teacher" in found.values() and "student" not in found.values() and len(predictions) == 1:
        found[predictions[0]] = "student"
    return found


def meaning_of(parameter: str) -> str | None:
    """Return what a parameter means, or ``None`` when its name says nothing."""
    name = _canonical(parameter)
    if name in _MEANINGS:
        return _MEANINGS[name]
    if SAYS_WHICH_DOCUMENT.fullmatch(name):
        return "documents"
    if _VIEW.fullmatch(name):
        return "embedding"
    if _IMAGE.fullmatch(name):
        return "prediction"
    words = set(name.split("_"))
    if (words & {"mask", "masks"} or name.endswith("mask")) and not words & _HOW_MANY:
        return "token_mask"
    if words & (_CHOSEN | _REJECTED) or (words & {"w", "l"} and words & {"logp", "reward", "rewards"}):
        return _of_pair(words)
    if words & {"real", "fake"} and words & _JUDGED:
        return "judgement"
    if words & _SAID["embedding"] and words & _EMBEDDED_THINGS:
        return "embedding"
    if "logp" in words:
        return _of_logprobs(words)
    return None


def loose_meaning(parameter: str, beside: Collection[str] = ()) -> str | None:
    """Return what a required parameter most likely means by one of its words, or ``None``: `est_targets`, `gt_score`.

    Args:
        parameter: its name.
        beside: the names of all required parameters.
    """
    if (together := meaning_beside(bare(parameter), [bare(name) for name in beside])) is not None:
        return together
    words = set(_canonical(parameter).split("_"))
    if words & _COUNTED and words & _HOW_MANY:
        return "count"
    if words & (_BETTER | _WORSE) and (words & _SCORED or words in ({"r", "w"}, {"r", "l"}, {"chosen"}, {"rejected"})):
        return f"pair.{'chosen' if words & _BETTER else 'rejected'}_rewards"
    if words & {"student", "teacher"}:
        return _of_model(words)
    if words in ({"weight"}, {"weights"}, {"loss", "weights"}, {"loss", "weight"}):
        return "entry_weights"
    if words & _OF_ANOTHER_KIND:
        return None
    if words & {"logits", "logit"} and not words & (_OLD | _REFERENCE | _GENERATION | _ROUTING | _BETWEEN_ROWS):
        return "prediction"
    for meaning, said in _SAID.items():
        if words & said:
            return meaning
    return None


def _of_model(words: set[str]) -> str | None:
    """Return what an output of a student or a teacher is, by the other words: scores unless they say more."""
    said = words - {"student", "teacher"}
    if said & (_OF_ANOTHER_KIND | _NO_SCORES) or len(words & {"student", "teacher"}) > 1:
        return None
    if said & _HIDDEN:
        return "embedding" if "student" in words else "teacher_embedding"
    return "student" if "student" in words else "teacher"


def nearest_known(parameter: str) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to ``parameter``, or the empty string."""
    return nearest_name(parameter, _EXAMPLES)


def _canonical(parameter: str) -> str:
    name = bare(parameter).strip("_").lower()
    # log_prob, logprobs, log_probs, logps, log_p ... are one word.
    return re.sub(r"(?<![a-z])(l(og)?_?prob(abilitie|abilitys?)?s?|log_?ps?)(?![a-z])", "logp", name)


def _of_pair(words: set[str]) -> str | None:
    side = "chosen" if words & _BETTER else "rejected"
    if words & {"reward", "rewards", "score", "scores", "r", "values", "logratio", "logratios"}:
        return f"pair.{side}_rewards"
    if words & {"length", "lengths", "len", "lens"}:
        return f"pair.{side}_lengths"
    if "logp" not in words and not words & {"policy", *_REFERENCE}:
        return None
    return f"pair.{'reference' if words & _REFERENCE else 'policy'}_{side}_logps"


def _of_logprobs(words: set[str]) -> str | None:
    if "kl" in words:
        return f"pair.{'reference' if words & _REFERENCE else 'policy'}_other_logps"
    rest = words - {"logp"} - _FILLER - _FILLER_MORE
    if rest & _OLD:
        return "old_logprobs"
    if rest & _REFERENCE:
        return "reference_logprobs"
    if rest & _GENERATION:
        return "generation_logprobs"
    if "teacher" in rest:
        return "teacher_logprobs"
    if "student" in rest:
        return "student_logprobs"
    return "logprobs" if rest <= _POLICY else None
