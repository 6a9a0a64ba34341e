"""Losses in NeMo RL's own protocol."""

import enum

import pytest
import torch
import torch.nn.functional as F

from loss_conformance.cases.build import build
from loss_conformance.subject.nemo_rl import NeMoRLProtocol
from loss_conformance.subject.protocol import CannotFeed
from loss_reference import Contract, Field
from tests.conformance.subject.fed import POOL, assert_fed, route, shapes


class LossInputType(enum.Enum):
    LOGIT = "logit"
    LOGPROB = "logprob"
    DISTILLATION = "distillation"
    DRAFT = "draft"


def masked_mean(x, mask, count):
    return (x * mask).sum() / (count + 1e-8)


def token_weights(data):
    return data["token_mask"][:, 1:] * data["sample_mask"].unsqueeze(-1)


class ClippedPG:
    input_type = LossInputType.LOGPROB

    def __init__(self, cfg):
        self.low, self.kl = cfg["ratio_clip_min"], cfg.get("reference_policy_kl_penalty", 0.1)

    def __call__(self, next_token_logprobs, data, global_valid_seqs, global_valid_toks):
        old, advantages = data["prev_logprobs"][:, 1:], data["advantages"][:, 1:]
        ratio = torch.exp(next_token_logprobs - old)
        losses = torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - self.low, 1 + self.low))
        delta = data["reference_policy_logprobs"][:, 1:] - next_token_logprobs
        losses = losses + self.kl * (delta.exp() - delta - 1)
        loss = masked_mean(losses, token_weights(data), global_valid_toks)
        return loss, {"loss": loss.item()}


class DPO:
    input_type = "logprob"

    def __init__(self, cfg):
        self.beta = cfg.get("beta", 0.1)

    def __call__(self, data, global_valid_seqs, global_valid_toks, next_token_logprobs):
        reference = data["reference_policy_logprobs"][:, :-1]
        h = ((next_token_logprobs - reference) * token_weights(data)).sum(-1)
        losses = -F.logsigmoid(self.beta * (h[::2] - h[1::2])) * data["sample_mask"][::2]
        return losses.sum() / (global_valid_seqs / 2), {}


class RewardModel:
    input_type = LossInputType.LOGIT

    def __call__(self, logits, data, global_valid_seqs, global_valid_toks):
        rewards = logits.squeeze(-1)
        losses = -F.logsigmoid(rewards[::2] - rewards[1::2]) * data["sample_mask"][::2]
        return losses.sum() / (global_valid_seqs / 2), {}


class NLL:
    input_type = LossInputType.LOGIT

    def __call__(self, data, global_valid_seqs, global_valid_toks, **prepared):
        ids = data["input_ids"][:, 1:, None]
        logprobs = prepared["logits"][:, :-1].log_softmax(-1).gather(-1, ids).squeeze(-1)
        return -masked_mean(logprobs, token_weights(data), global_valid_toks), {}


class Value:
    input_type = LossInputType.LOGIT

    def __call__(self, logits, data, global_valid_seqs, global_valid_toks):
        values, old = logits.squeeze(-1), data["values"]
        clipped = old + (values - old).clamp(-0.2, 0.2)
        losses = torch.max((values - data["returns"]) ** 2, (clipped - data["returns"]) ** 2)
        mask = data["token_mask"] * data["sample_mask"][:, None]
        return 0.5 * masked_mean(losses, mask, global_valid_toks), {}


class NextTokenLogits:
    """As losses were called before there was an ``input_type``: the scores first."""

    def __call__(self, next_token_logits, data, global_valid_seqs, global_valid_toks, dpo_loss=False):
        ids = data["input_ids"][:, 1:, None]
        logprobs = next_token_logits[:, :-1].log_softmax(-1).gather(-1, ids).squeeze(-1)
        return -masked_mean(logprobs, token_weights(data), global_valid_toks), {}


class Rewards:
    def __call__(self, rewards, data, global_valid_seqs, global_valid_toks):
        losses = -F.logsigmoid(rewards[::2] - rewards[1::2]) * data["sample_mask"][::2]
        return losses.sum() / (global_valid_seqs / 2), {}


class Distillation:
    input_type = LossInputType.DISTILLATION

    def __call__(self, student_topk_logprobs, teacher_topk_logprobs, H_all, data, global_valid_seqs, global_valid_toks):
        kl = (teacher_topk_logprobs.exp() * (teacher_topk_logprobs - student_topk_logprobs)).sum(-1)
        return masked_mean(kl + 0.0 * H_all, token_weights(data), global_valid_toks), {}


class Draft:
    input_type = LossInputType.DRAFT

    def __call__(self, teacher_logits, student_logits, data, global_valid_seqs, global_valid_toks):
        p = teacher_logits.detach().softmax(-1)[:, :-1]
        losses = -(p * student_logits.log_softmax(-1)[:, :-1]).sum(-1)
        return masked_mean(losses, token_weights(data), global_valid_toks), {}


COUNTS = {
    "global_valid_seqs": "batch.global_valid_seqs",
    "global_valid_toks": "batch.global_valid_toks",
}
TOKENS = {'batch["token_mask"]': "batch.token_mask B S", 'batch["sample_mask"]': "batch.sample_mask B"}
NEW = {"next_token_logprobs": "model_outputs.next_token_logprobs B S-1*>1"}
LOSSES = [
    (
        ClippedPG,
        {"ratio_clip_min": 0.2},
        {
            **TOKENS,
            'batch["reference_policy_logprobs"]': "batch.reference_policy_logprobs B S",
            'batch["prev_logprobs"]': "batch.prev_logprobs B S",
            'batch["advantages"]': "batch.advantages B S",
            **COUNTS,
            **NEW,
        },
    ),
    (
        DPO,
        {},
        {**TOKENS, 'batch["reference_policy_logprobs"]': "batch.reference_policy_logprobs B S>1", **COUNTS, **NEW},
    ),
    (
        RewardModel,
        {},
        {'batch["sample_mask"]': "batch.sample_mask B", **COUNTS, "logits": "model_outputs.rewards B 1*"},
    ),
    (
        NLL,
        {},
        {
            'batch["input_ids"]': "batch.input_ids B S!",
            **TOKENS,
            **COUNTS,
            "logits": "model_outputs.logits B S V*>1",
        },
    ),
    (
        Value,
        {},
        {
            **TOKENS,
            'batch["returns"]': "batch.returns B S",
            'batch["values"]': "batch.values B S",
            **COUNTS,
            "logits": "model_outputs.values B S 1*",
        },
    ),
    (
        NextTokenLogits,
        {},
        {
            'batch["input_ids"]': "batch.input_ids B S!",
            **TOKENS,
            **COUNTS,
            "next_token_logits": "model_outputs.logits B S V*>1",
        },
    ),
    (Rewards, {}, {'batch["sample_mask"]': "batch.sample_mask B", **COUNTS, "rewards": "model_outputs.rewards B*"}),
    (
        Distillation,
        {},
        {
            **TOKENS,
            **COUNTS,
            "student_topk_logprobs": "prepared.student_topk_logprobs B S-1 K*>1",
            "teacher_topk_logprobs": "prepared.teacher_topk_logprobs B S-1 K>1",
            "H_all": "prepared.negative_entropy B S-1*>1",
        },
    ),
    (
        Draft,
        {},
        {
            **TOKENS,
            **COUNTS,
            "teacher_logits": "batch.teacher_logits B S V>1",
            "student_logits": "model_outputs.logits B S V*>1",
        },
    ),
]
WITHOUT_ONE_ROW = ("typical", "on_policy", "off_policy", "saturated", "certain", "ties", "full", "one_token", "holes")


@pytest.mark.parametrize(("loss", "config", "expected"), LOSSES, ids=lambda value: getattr(value, "__name__", ""))
def test_inputs_are_found(loss, config, expected):
    subject, schema = route(loss, config=config)
    assert type(subject.protocol) is NeMoRLProtocol
    assert subject.protocol.foreign
    assert shapes(schema) == expected
    if loss in (DPO, RewardModel, Rewards):
        schema = type(schema)(schema.slots, group=2)
    assert_fed(subject, schema, WITHOUT_ONE_ROW)


def test_settings_are_those_the_constructor_reads():
    subject, _ = route(ClippedPG, config={"ratio_clip_min": 0.2})
    assert subject.settings == {"ratio_clip_min": 0.2, "reference_policy_kl_penalty": 0.1}


def test_rolled_reference_speaks_of_the_same_tokens():
    _, rolled = route(DPO)
    _, aligned = route(ClippedPG, config={"ratio_clip_min": 0.2})
    for plan in POOL["typical"]:
        key = 'batch["reference_policy_logprobs"]'
        one, other = build(rolled, plan), build(aligned, plan)
        assert torch.equal(one.tensors[key][:, :-1], other.tensors[key][:, 1:])
        slot = next(s for s in rolled.slots if s.key == key)
        assert torch.equal(one.active(slot)[:, :-1], (one.trained & (one.rows != 0)[:, None])[:, 1:])
        assert not bool(one.active(slot)[:, -1].any())


def test_unknown_field_of_the_batch():
    class Odd:
        def __call__(self, next_token_logprobs, data, global_valid_seqs, global_valid_toks):
            return (next_token_logprobs * data["advantage"]).sum(), {}

    with pytest.raises(
        CannotFeed, match=r"it reads batch\['advantage'\], which is not in the vocabulary; did you mean"
    ):
        route(Odd)
    _, schema = route(Odd, Contract(fields={"advantage": Field("values", "B S-1")}))
    assert 'batch["advantage"]' in shapes(schema)


def test_unknown_prepared_input():
    class Odd:
        def __call__(self, hidden_states, data, global_valid_seqs, global_valid_toks):
            return hidden_states.sum(), {}

    with pytest.raises(CannotFeed) as caught:
        route(Odd)
    assert str(caught.value) == (
        "it needs the prepared input 'hidden_states', which is not known; declare it on the class:\n"
        '    contract = Contract(fields={"hidden_states": Field(role="logprobs", shape="B S-1")})'
    )
    _, schema = route(Odd, Contract(fields={"hidden_states": Field("embeddings", "B S 4")}))
    assert shapes(schema) == {**COUNTS, "hidden_states": "embeddings B S 4*"}


def test_nothing_fits():
    class Odd:
        input_type = LossInputType.LOGPROB

        def __call__(self, next_token_logprobs, data, global_valid_seqs, global_valid_toks):
            raise ValueError("never")

    with pytest.raises(CannotFeed) as caught:
        route(Odd)
    assert str(caught.value) == (
        "it accepts none of the inputs that NeMo RL prepares\n"
        "  next_token_logprobs [B, S-1]: ValueError: never\n"
        "name the inputs in its signature, or declare them in a contract with fields={...}"
    )
