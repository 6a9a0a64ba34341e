"""Signatures people write are understood: each of these losses is fed, and nothing right about it is accused."""

import pytest
import torch
import torch.nn.functional as F

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from tests.conformance.subject.fed import assert_not_accused


def ratio(ratio, advantages, clip_eps=0.2):
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages).mean()


def log_ratio(log_ratio, advantages):
    return -(log_ratio.exp() * advantages).mean()


def indexed_dpo(pi_logps, ref_logps, yw_idxs, yl_idxs, beta=0.1):
    logits = (pi_logps - ref_logps)[yw_idxs] - (pi_logps - ref_logps)[yl_idxs]
    return -F.logsigmoid(beta * logits).mean()


def log_ratio_dpo(pi_logratios, ref_logratios, beta=0.1):
    return -F.logsigmoid(beta * (pi_logratios - ref_logratios)).mean()


def winner_dpo(logp_w, logp_l, ref_logp_w, ref_logp_l, beta=0.1):
    return -F.logsigmoid(beta * (logp_w - logp_l - ref_logp_w + ref_logp_l)).mean()


def short_rewards(r_w, r_l):
    return -F.logsigmoid(r_w - r_l).mean()


def bare_sides(chosen, rejected):
    return -F.logsigmoid(chosen - rejected).mean()


def simpo_by_lengths(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths):
    return -F.logsigmoid(chosen_logps / chosen_lengths - rejected_logps / rejected_lengths).mean()


def kto_like(policy_logps, reference_logps, labels_desirable):
    x = policy_logps - reference_logps
    return torch.where(labels_desirable.bool(), torch.sigmoid(-x), torch.sigmoid(x)).mean()


def kl_of_distributions(p, q):
    return (p * (p.log() - q.log())).sum(-1).mean()


def kl_of_log_distributions(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def balance(gate_logits, top_k=2):
    p = gate_logits.softmax(-1)
    experts = p.shape[-1]
    chosen = F.one_hot(gate_logits.topk(min(top_k, experts), -1).indices, experts).to(p).sum(-2)
    return experts * (chosen.flatten(0, -2).mean(0) * p.flatten(0, -2).mean(0)).sum()


def switch_balance(router_probs, expert_indices):
    experts = router_probs.shape[-1]
    share = F.one_hot(expert_indices, experts).to(router_probs).flatten(0, -2).mean(0)
    return experts * (share * router_probs.flatten(0, -2).mean(0)).sum()


def router_z(router_logits):
    return router_logits.logsumexp(-1).square().mean()


def margin_of_three(a, p, n):
    return F.relu(1 + (a - p).norm(dim=-1) - (a - n).norm(dim=-1)).mean()


def retrieval(query, document, temperature=0.1):
    scores = F.normalize(query, dim=-1) @ F.normalize(document, dim=-1).T / temperature
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def discriminator(d_real, d_fake):
    return F.relu(1 - d_real).mean() + F.relu(1 + d_fake).mean()


def vae(recon_x, x, mu, logvar):
    code = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(-1).mean()
    return F.mse_loss(recon_x, x) + code


def denoising(noise_pred, noise):
    return F.mse_loss(noise_pred, noise)


def min_snr(model_pred, target, snr, snr_gamma=5.0):
    weight = snr.clamp(max=snr_gamma) / snr
    return ((model_pred - target).square().flatten(1).mean(1) * weight).mean()


def span(start_logits, end_logits, start_positions, end_positions):
    return (F.cross_entropy(start_logits, start_positions) + F.cross_entropy(end_logits, end_positions)) / 2


def q_learning(q_values, actions, rewards, next_q_values, dones, gamma=0.99):
    q = q_values.gather(1, actions[:, None]).squeeze(1)
    target = rewards + gamma * (1 - dones) * next_q_values.max(1).values
    return F.mse_loss(q, target.detach())


def of_actions(logits, actions, advantages):
    logp = logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return -(logp * advantages).mean()


def with_baseline(log_prob, reward, baseline):
    return -((reward - baseline) * log_prob).mean()


def linear_cross_entropy(hidden_states, lm_head_weight, labels):
    logits = hidden_states @ lm_head_weight.T
    total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="sum")
    return total / (labels != -100).sum().clamp(min=1)


def weighted_rows(y_pred, y_true, sample_weight):
    return ((y_pred - y_true).square() * sample_weight).mean()


# What could be accused: a choice, labels or a noise level among the inputs, and rows that look at each other.
WHOLE = {kto_like, indexed_dpo, switch_balance, retrieval, vae, min_snr, q_learning, linear_cross_entropy}
FED = ("scalar_output", "finite_value", "mask_value", "lower_bound", "row_independence", "wanted_direction")
LOSSES = [value for value in list(globals().values()) if getattr(value, "__module__", "") == __name__]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_it_is_fed_and_nothing_is_wrong(loss):
    assert_not_accused(loss, () if loss in WHOLE else FED)


def paper_dpo(pi_logps, ref_logps, yw_idxs, yl_idxs, beta):
    return indexed_dpo(pi_logps, ref_logps, yw_idxs, yl_idxs, beta)


def test_a_setting_without_default_gets_a_usual_value_and_the_report_says_so():
    report = check_loss(paper_dpo, profile="quick", seed=0, device="cpu", checks=FED)
    assert report.having(Status.FAILED) == ()
    assert "nothing gives beta a value, so 0.1 was taken" in "\n".join(report.warnings)


def test_a_value_that_is_given_stays():
    report = check_loss(paper_dpo, config={"beta": 0.3}, checks=("scalar_output",), seed=0, device="cpu")
    assert not any("beta" in line for line in report.warnings)
