"""Names and what they mean."""

import pytest

from loss_conformance.subject.parameter_names import loose_meaning, meaning_of, meanings_of, nearest_known

NAMES = {
    "logprobs": "log_prob log_probs logprob logprobs logps per_token_logps new_logprobs policy_logprobs pi_logprobs "
    "curr_logprobs action_log_probs next_token_logprobs current_log_probs actor_log_probs selected_logps",
    "old_logprobs": "old_log_prob old_logprobs old_per_token_logps old_action_log_probs prev_logprobs pi_old_logprobs",
    "reference_logprobs": "ref_log_prob ref_logprobs ref_per_token_logps reference_policy_logprobs base_action_log_probs",
    "generation_logprobs": "rollout_log_probs generation_logprobs vllm_logprobs sampling_per_token_logps",
    "token_mask": "response_mask action_mask completion_mask eos_mask mask loss_mask padding_masks attention_mask",
    "rows_mask": "sample_mask",
    "advantages": "advantages advantage adv",
    "values": "values vpreds phi_values new_values",
    "old_values": "old_values phi_old_values",
    "returns": "returns ret",
    "rewards": "rewards reward",
    "pair.policy_chosen_logps": "policy_chosen_logps chosen_logps policy_chosen_logprobs pi_chosen_log_probs",
    "pair.policy_rejected_logps": "policy_rejected_logps rejected_logps",
    "pair.reference_chosen_logps": "reference_chosen_logps ref_chosen_logps ref_chosen_log_probs",
    "pair.reference_rejected_logps": "reference_rejected_logps ref_rejected_logps",
    "pair.chosen_rewards": "chosen_reward chosen_rewards rewards_chosen chosen_scores",
    "pair.rejected_rewards": "reject_reward rejected_rewards rewards_rejected",
    "pair.policy_other_logps": "policy_KL_logps",
    "prediction": "input inputs logits pred preds predictions output outputs y_pred y_hat",
    "target": "target targets label labels y y_true",
    "probabilities": "probs probabilities",
    "embedding": "anchor positive negative embeddings features x1 x2 input1 input2 z_a z_b out0 x0 positive_key",
    "scale": "logit_scale",
    "student": "student_logits",
    "teacher": "teacher_logits",
    "teacher_logprobs": "teacher_log_probs teacher_logprobs",
}


@pytest.mark.parametrize(("name", "meaning"), [(n, m) for m, names in NAMES.items() for n in names.split()])
def test_meanings(name, meaning):
    assert meaning_of(name) == meaning


@pytest.mark.parametrize(
    "name", ["beta", "temperature", "reduction", "foo", "weight", "chosen", "num_items_in_batch", "logo"]
)
def test_no_meaning(name):
    assert meaning_of(name) is None


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("student_scores", "student"),
        ("teacher_prediction", "teacher"),
        ("student_hidden", "embedding"),
        ("teacher_features", "teacher_embedding"),
        ("mix_logits", "prediction"),
        ("pos_logits", "pair.chosen_rewards"),
        *((name, None) for name in ("teacher_temp", "student_model", "student_views", "old_logits")),
    ],
)
def test_what_a_required_parameter_most_likely_means(name, meaning):
    assert meaning_of(name) is None
    assert loose_meaning(name) == meaning


def test_a_and_b_alone_are_embeddings():
    assert meanings_of(["a", "b"]) == {"a": "embedding", "b": "embedding"}
    assert meanings_of(["a", "b", "target"]) == {"a": None, "b": None, "target": "target"}


def test_values_beside_predicted_values_are_the_old_ones():
    assert meanings_of(["vpreds", "values"]) == {"vpreds": "values", "values": "old_values"}
    assert meanings_of(["values", "old_values"]) == {"values": "values", "old_values": "old_values"}
    assert meanings_of(["values", "returns"]) == {"values": "values", "returns": "returns"}


def test_of_two_images_the_second_is_wanted():
    assert meanings_of(["img1", "img2"]) == {"img1": "prediction", "img2": "target"}
    assert meanings_of(["image_a", "image_b"]) == {"image_a": "prediction", "image_b": "target"}
    assert meanings_of(["image", "target"]) == {"image": "prediction", "target": "target"}


def test_nearest():
    assert nearest_known("respons_mask") == "; did you mean 'response_mask'?"
    assert nearest_known("zzz") == ""
