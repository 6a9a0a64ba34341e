"""Arguments that say something only beside others: scales, survival, distributions of values, steps, packed rows."""

import pytest
import torch
import torch.nn.functional as F

from loss_reference import Contract, Field
from tests.conformance.subject.fed import assert_fed, route, shapes


def coral(logits, levels):
    return -(F.logsigmoid(logits) * levels + (F.logsigmoid(logits) - logits) * (1 - levels)).sum(1).mean()


def corn(logits, levels):
    scores = logits[:, :-1]
    step = torch.arange(scores.shape[1], device=scores.device)
    inside = levels[:, None] >= step
    terms = F.binary_cross_entropy_with_logits(scores, (levels[:, None] > step).to(scores), reduction="none")
    return torch.where(inside, terms, 0.0).sum() / inside.sum().clamp(min=1)


def survival_of_logits(hazards, Y, c):
    lived = F.logsigmoid(-hazards).cumsum(1)
    died = F.pad(lived, (1, 0)).gather(1, Y[:, None]) + F.logsigmoid(hazards).gather(1, Y[:, None])
    return -torch.where(c[:, None] > 0, lived.gather(1, Y[:, None]), died).mean()


def survival(hazards, labels, censored):
    lived = (1 - hazards).log().cumsum(1)
    died = F.pad(lived, (1, 0)).gather(1, labels[:, None]) + hazards.log().gather(1, labels[:, None])
    return -torch.where(censored[:, None] > 0, lived.gather(1, labels[:, None]), died).mean()


def cox(log_hazard, durations, events):
    at_risk = durations[None, :] >= durations[:, None]
    spread = log_hazard.expand(len(log_hazard), -1).masked_fill(~at_risk, -1e30)
    return ((spread.logsumexp(1) - log_hazard) * events).sum() / events.sum().clamp(min=1)


def of_next_atoms(logits, next_pmfs, rewards, discounts):
    support = torch.linspace(-1, 1, logits.shape[-1], dtype=logits.dtype)
    weight = (rewards[:, None] + discounts[:, None] * support).softmax(-1) * next_pmfs
    return -(weight * logits.log_softmax(-1)).sum(-1).mean()


def of_atoms(old_pmfs, target_pmfs):
    return -(target_pmfs * old_pmfs.clamp(1e-5, 1 - 1e-5).log()).sum(-1).mean()


def of_quantiles(quantiles, target_quantiles):
    apart = target_quantiles[:, None, :] - quantiles[:, :, None]
    levels = (torch.arange(quantiles.shape[1], dtype=quantiles.dtype) + 0.5) / quantiles.shape[1]
    return (
        (levels[None, :, None] - (apart.detach() < 0).to(apart)).abs()
        * F.huber_loss(apart, apart * 0, reduction="none")
    ).mean()


def soft_critics(qf1_a_values, qf2_a_values, min_qf_next_target, next_state_log_pi, rewards, discounts, alpha=0.2):
    target = rewards + discounts * (min_qf_next_target - alpha * next_state_log_pi)
    return F.mse_loss(qf1_a_values, target) + F.mse_loss(qf2_a_values, target)


def expectile(v, target_q):
    apart = target_q - v
    return (torch.where(apart > 0, 0.7, 0.3) * apart.square()).mean()


def reward_of_tokens(log_prob, token_level_rewards, response_mask):
    to_go = (token_level_rewards * response_mask).flip(1).cumsum(1).flip(1)
    return -(to_go * log_prob * response_mask).sum() / response_mask.sum().clamp(min=1)


def discounted_steps(log_prob, rewards, values, discounts):
    ahead = F.pad(values[:, 1:], (0, 1))
    return -((rewards + discounts * ahead - values) * log_prob).mean()


def with_ties(rewards_chosen, rewards_rejected, is_tie):
    x = rewards_chosen - rewards_rejected
    return -torch.where(is_tie > 0, F.logsigmoid(x + 1) + F.logsigmoid(1 - x), F.logsigmoid(x - 1)).mean()


def of_valid_pairs(chosen_rewards, rejected_rewards, valid_pairs):
    x = torch.where(valid_pairs != 0, chosen_rewards - rejected_rewards, 0.0)
    return -(F.logsigmoid(x) * valid_pairs).sum() / valid_pairs.sum().clamp(min=1)


def ensemble(chosen_rewards, rejected_rewards):
    return -F.logsigmoid((chosen_rewards - rejected_rewards).mean(1)).mean()


def of_attributes(scores, attributes, rated):
    return (torch.where(rated != 0, scores - attributes, 0.0) ** 2).sum() / rated.sum().clamp(min=1)


def guided(anchors, positives, guide_anchors, guide_positives):
    scores, guide = anchors @ positives.T, guide_anchors @ guide_positives.T
    scores = scores.masked_fill(guide > guide.diagonal()[:, None], -1e30)
    return F.cross_entropy(scores, torch.arange(len(scores)))


def of_doubtful_pairs(images, captions, confidence):
    scores = F.normalize(images, dim=-1) @ F.normalize(captions, dim=-1).T
    return F.relu(0.2 * confidence[:, None] + scores - scores.diagonal()[:, None]).mean()


def packed(logits, labels, document_ids):
    keep = (labels[:, 1:] != -100) & (document_ids[:, 1:] == document_ids[:, :-1])
    terms = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].clamp(min=0).flatten(), reduction="none")
    return torch.where(keep.flatten(), terms, 0.0).sum() / keep.sum().clamp(min=1)


def packed_sequences(logits, labels, sequence_ids):
    return packed(logits, labels, sequence_ids)


TOKENS = {"logits": "model_outputs.logits B S V*>1", "labels": "batch.input_ids B S!"}
FED = {
    coral: {"logits": "values B D*", "levels": "binary_targets B D"},
    corn: {"logits": "values B V*", "levels": "token_ids B!"},
    survival_of_logits: {"hazards": "values B V*", "Y": "token_ids B!", "c": "labels B!"},
    survival: {"hazards": "probabilities B V*", "labels": "token_ids B!", "censored": "labels B!"},
    cox: {"log_hazard": "risk B*", "durations": "values B", "events": "event_labels B!"},
    of_next_atoms: {
        "logits": "logits B V*",
        "next_pmfs": "probabilities B V",
        "rewards": "rewards B",
        "discounts": "values B",
    },
    of_atoms: {"old_pmfs": "probabilities B V*", "target_pmfs": "probabilities B V"},
    of_quantiles: {"quantiles": "values B Q*", "target_quantiles": "values B Q"},
    soft_critics: {
        "qf1_a_values": "values B*",
        "qf2_a_values": "values B*",
        "min_qf_next_target": "values B",
        "next_state_log_pi": "logprobs B",
        "rewards": "values B",
        "discounts": "values B",
    },
    expectile: {"v": "values B*", "target_q": "values B"},
    reward_of_tokens: {
        "log_prob": "model_outputs.next_token_logprobs B S-1*>1",
        "token_level_rewards": "token_rewards B S-1>1",
        "response_mask": "batch.token_mask B S-1>1",
    },
    discounted_steps: {
        "log_prob": "model_outputs.next_token_logprobs B S-1*>1",
        "rewards": "token_rewards B S-1>1",
        "values": "batch.values B S-1>1",
        "discounts": "values B S-1>1",
    },
    with_ties: {
        "rewards_chosen": "pair.chosen_rewards B*",
        "rewards_rejected": "pair.rejected_rewards B*",
        "is_tie": "labels B!",
    },
    of_valid_pairs: {
        "chosen_rewards": "pair.chosen_rewards B*",
        "rejected_rewards": "pair.rejected_rewards B*",
        "valid_pairs": "rows_mask B!",
    },
    ensemble: {"chosen_rewards": "values B D*", "rejected_rewards": "values B D*"},
    of_attributes: {"scores": "values B S*", "attributes": "values B S", "rated": "batch.token_mask B S"},
    guided: {
        **dict.fromkeys(("anchors", "positives"), "embeddings B D*"),
        **dict.fromkeys(("guide_anchors", "guide_positives"), "embeddings B D"),
    },
    of_doubtful_pairs: {"images": "embeddings B D*", "captions": "embeddings B D*", "confidence": "values B"},
    packed: {**TOKENS, "document_ids": "documents B S!"},
    packed_sequences: {**TOKENS, "sequence_ids": "documents B S!"},
}


@pytest.mark.parametrize(("loss", "expected"), FED.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_it_is_fed_what_its_names_say_together(loss, expected):
    subject, schema = route(loss)
    assert shapes(schema) == expected
    assert_fed(subject, schema)


def test_declared_document_ids_are_structure_whatever_their_role():
    fields = {"document_ids": Field(role="labels", shape="B S")}
    _, schema = route(packed, Contract(fields=fields))
    assert shapes(schema)["document_ids"] == "documents B S!"


def test_sequence_ids_alone_say_nothing():
    from loss_conformance.subject.parameter_names import meaning_of

    assert meaning_of("sequence_ids") is None
