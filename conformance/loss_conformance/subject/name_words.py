"""The words of parameter names: whole names and what they mean, and words that say what a longer name means."""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "BETTER",
    "BETWEEN_ROWS",
    "CHOSEN",
    "COUNTED",
    "EMBEDDED_THINGS",
    "EXAMPLES",
    "FILLER",
    "GENERATION",
    "HIDDEN",
    "HOW_MANY",
    "HOW_OFTEN",
    "IMAGE",
    "JUDGED",
    "MEANINGS",
    "NO_SCORES",
    "OF_ANOTHER_KIND",
    "OLD",
    "POLICY",
    "REFERENCE",
    "REJECTED",
    "ROUTING",
    "SAID",
    "SCORED",
    "SCORES",
    "VIEW",
    "WORSE",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Whole names, after spelling variants are made one, and what they mean.
_WHOLE_NAMES: Final[dict[str, str]] = {
    "advantages": "advantages adv advs advantage gae adv_t a_t",
    "returns": "returns return ret rets value_target value_targets target_value target_values values_target",
    "old_values": "old_values old_value phi_old_values prev_values values_old value_old baseline baselines",
    "values": "values value vpreds vpred value_preds value_pred predicted_values new_values phi_values critic_values "
    "loss_mat loss_matrix per_token_loss token_losses",
    "entropy": "entropy entropies per_token_entropy token_entropy",
    "rewards": "rewards reward reward_scores sequence_rewards seq_rewards episode_rewards outcome_rewards",
    "negative_loglikelihood": "policy_nll_loss nll_loss nll sft_loss chosen_nll_loss",
    "token_rewards": "token_level_rewards token_level_scores token_rewards per_token_rewards",
    "tie": "is_tie is_tied",
    "rows_there": "valid_pairs",
    "rows_mask": "pair_mask sample_mask row_mask rows_mask seq_mask sequence_mask loss_multiplier has_eos ends_with_eos",
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
    "response_lengths": "response_lengths response_length completion_lengths completion_length",
    "target_lengths": "target_lengths",
    "input_ids": "input_ids token_ids action_ids response_ids completion_ids",
    "margin": "margin margins",
    "student": "student_logits student_logit logits_student s_logits logits_s y_s student student_outputs outputs_student",
    "teacher": "teacher_logits teacher_logit logits_teacher t_logits logits_t y_t teacher teacher_outputs outputs_teacher "
    "ref_logits reference_logits ref_model_logits base_logits base_model_logits",
    "student_probabilities": "student_probs student_prob",
    "teacher_probabilities": "teacher_probs teacher_prob",
    "teacher_embedding": "f_t feat_t feats_t",
    "embedding": "f_s feat_s feats_s "
    "anchor anchors positive positives negative negatives query queries key keys pos neg features embeddings "
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
MEANINGS: Final = {name: meaning for meaning, names in _WHOLE_NAMES.items() for name in names.split()}

# One of several like it: views of a batch by number or letter, two images of which the second is the wanted one, and
# scores of the same inputs, computed twice.
VIEW: Final = re.compile(
    r"(z|x|h|out|output|emb|embed|embedding|feat|feature|features|rep|view|proj)s?_?([0-9]|[abij]|left|right)"
)
IMAGE: Final = re.compile(r"(img|image|im)_?([ab0-2])")
SCORES: Final = re.compile(r"logits?_?[12ab]")


# Of whom a log-probability is, and words that say nothing of that.
OLD: Final = _words("old prev previous behavior behaviour proximal prox")
REFERENCE: Final = _words("ref reference base frozen")
GENERATION: Final = _words("rollout generation generator gen vllm sampling sampler inference infer")
POLICY: Final = _words("new current curr policy pi actor model student trainer")
FILLER: Final = _words(
    "per token tokens next action actions seq sequence response responses "
    "completion completions all batch input inputs selected sum avg mean"
)

# Words that say what a longer name means, the strongest first, and words after which they say nothing.
SAID: Final = {
    "prediction": _words(
        "pred preds predicted prediction predictions est estimate estimated estimates hat output outputs score scores"
    ),
    "target": _words("target targets label labels gt true truth tgt"),
    "embedding": _words("embedding embeddings embeds emb embs"),
}
OF_ANOTHER_KIND: Final = _words(
    "num n len lens length lengths weight weights size mask id ids index box bbox boxes bboxes dist logp student "
    "teacher smoothing name names fn mode pos neg token tokens model type lr std var variance sigma sigmas kpts "
    "keypoints"
)
HOW_OFTEN: Final = _words("p prob probs probability ratio rate")
HOW_MANY: Final = _words("num n number count total nr global")
COUNTED: Final = _words(
    "boxes masks items tokens toks seqs sequences samples pairs instances objects elements valid examples positives"
)

# The two sides of a pair: by words that say nothing else, and by words that may.
CHOSEN: Final = _words("chosen preferred winner winning win yw accepted")
REJECTED: Final = _words("rejected reject dispreferred unpreferred loser losing lose yl")
BETTER: Final = CHOSEN | _words("pos positive w")
WORSE: Final = REJECTED | _words("neg negative l")
SCORED: Final = _words("logit logits score scores pred preds rewards reward")

JUDGED: Final = _words("d disc discriminator critic logit logits score scores pred preds validity")
EMBEDDED_THINGS: Final = _words(
    "anchor pos positive neg negative query key doc document passage item user image text audio video sentence source"
)
HIDDEN: Final = SAID["embedding"] | _words("hidden hiddens feature features feat feats rep reps")
BETWEEN_ROWS: Final = _words("image text similarity sim")
ROUTING: Final = _words("router gate gating gates")
# Settings, and outputs with axes of their own.
NO_SCORES: Final = _words(
    "temp temperature tau t dim dims channels config momentum centre center view views crop crops"
)

# What a name that says nothing is compared with.
EXAMPLES: Final = (
    *MEANINGS,
    *("log_probs", "old_log_probs", "ref_log_probs", "rollout_log_probs", "response_mask", "action_mask", "loss_mask"),
    *("policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps"),
    *("chosen_rewards", "rejected_rewards", "teacher_log_probs", "student_log_probs"),
)
