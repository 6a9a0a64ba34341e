"""Names that say something beside others, and axes that say what ids count: each of these is fed and nothing is accused."""

import pytest
import torch
import torch.nn.functional as F

from loss_reference import Contract, Field
from tests.conformance.subject.fed import assert_not_accused, route, shapes

FED = ("scalar_output", "finite_value", "mask_value", "row_independence", "wanted_direction")


def masked_mean(x, mask):
    return torch.where(mask != 0, x, 0.0).sum() / mask.sum().clamp(min=1)


def divergence(log_p, log_q):
    return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum(-1)


def similarities(similarity):
    return F.cross_entropy(similarity, torch.arange(len(similarity), device=similarity.device))


def to_earlier_scores(logits, old_logits, mask):
    return masked_mean(divergence(old_logits.log_softmax(-1), logits.log_softmax(-1)), mask)


def listwise(scores, relevance, mask):
    log_p = scores.masked_fill(mask == 0, -1e4).log_softmax(-1)
    return -masked_mean(relevance * log_p, mask)


def soft_actor(log_pi, q, alpha):
    return (alpha * log_pi - q).mean()


def expectile(q, v, tau=0.7):
    difference = q - v
    return (torch.where(difference < 0, 1 - tau, tau) * difference.square()).mean()


def flow_matching(v_pred, x0, x1):
    return F.mse_loss(v_pred, x1 - x0)


def twin_critics(q1, q2, td_target):
    return F.mse_loss(q1, td_target) + F.mse_loss(q2, td_target)


def scores_and_features(student_logits, teacher_logits, student_hidden, teacher_hidden, attention_mask):
    terms = divergence(teacher_logits.log_softmax(-1), student_logits.log_softmax(-1))
    return masked_mean(terms + (student_hidden - teacher_hidden).square().mean(-1), attention_mask)


def leave_one_out(seq_log_probs, rewards):
    others = max(rewards.shape[1] - 1, 1)
    baseline = (rewards.sum(1, keepdim=True) - rewards) / others
    return -(seq_log_probs * (rewards - baseline)).mean()


def next_tokens(logits, labels, ahead):
    terms = F.cross_entropy(logits[:, :-ahead].flatten(0, 1), labels[:, ahead:].flatten(), reduction="sum")
    return terms / (labels[:, ahead:] != -100).sum().clamp(min=1)


def two_heads(logits, mtp_logits, labels):
    return next_tokens(logits, labels, 1) + 0.3 * next_tokens(mtp_logits, labels, 2)


LOSSES = [similarities, to_earlier_scores, listwise, soft_actor, expectile, flow_matching, twin_critics]
LOSSES += [scores_and_features, leave_one_out, two_heads]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_it_is_fed_and_nothing_is_wrong(loss):
    assert_not_accused(loss, FED)


def test_each_head_speaks_of_its_own_token():
    _, schema = route(two_heads)
    assert [slot.shift for slot in schema.slots if slot.trainable] == [1, 2]


def of_actions(logits, actions):
    return F.cross_entropy(logits, actions)


@pytest.mark.parametrize(("axes", "wanted"), [("B A", "logits B V*"), ("B 2", "logits B 2*")])
def test_declared_ids_count_along_the_axis_of_the_scores_beside_them(axes, wanted):
    fields = {"logits": Field(role="logits", shape=axes), "actions": Field(role="token_ids", shape="B")}
    _, schema = route(of_actions, Contract(fields=fields))
    assert shapes(schema) == {"logits": wanted, "actions": "token_ids B!"}
    assert schema.slots[1].high == (2.0 if "2" in axes else None)
