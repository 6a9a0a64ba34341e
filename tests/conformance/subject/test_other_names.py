"""Inputs by other names than those of the vocabulary, and names beside declared fields of one's own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from loss_conformance.subject.load import load_subject
from loss_conformance.subject.protocol import CannotFeed
from loss_reference import Contract, Field, LossFunction


def slots_of(loss: Any, contract: Contract | None = None) -> dict[str, Any]:
    subject = load_subject(loss, contract=contract)
    return {slot.name: slot for slot in subject.protocol.routes(subject.loss, contract or Contract())[0].slots}


class Critic(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:]
        error = (model_outputs["value_preds"][:, :-1] - batch["value_targets"][:, :-1].detach()).square()
        return torch.where(mask != 0, error, 0.0).sum() / mask.sum().clamp(min=1)


class RefusesOddRows(Critic):
    def compute_loss(self, batch, model_outputs):
        if len(batch["token_mask"]) % 12:
            raise ValueError("rows come in dozens")
        return super().compute_loss(batch, model_outputs)


class ReadsNothingKnown(LossFunction):
    def compute_loss(self, batch, model_outputs):
        return model_outputs["what"].sum()


def of_both_answers(chosen_logits, rejected_logits, chosen_labels, rejected_labels, label_pad_token_id=-1):
    def summed(logits, labels):
        there = labels[:, 1:] != label_pad_token_id
        log_p = (
            logits[:, :-1].log_softmax(-1).gather(-1, torch.where(there, labels[:, 1:], 0).unsqueeze(-1)).squeeze(-1)
        )
        return torch.where(there, log_p, 0.0).sum(1)

    return F.softplus(summed(rejected_logits, rejected_labels) - summed(chosen_logits, chosen_labels)).mean()


def over_responses(log_probs, advantages, loss_mask, response_lengths):
    there = torch.arange(log_probs.shape[1]) < response_lengths[:, None]
    return -torch.where(there & (loss_mask != 0), log_probs * advantages, 0.0).mean()


def with_a_field_of_its_own(log_probs, advantages, loss_mask, tilt):
    return -torch.where(loss_mask != 0, log_probs * advantages, 0.0).sum() / loss_mask.sum().clamp(min=1) * tilt.mean()


def test_a_field_of_the_vocabulary_by_another_name() -> None:
    slots = slots_of(Critic)
    assert (slots["value_preds"].kind, slots["value_targets"].kind) == ("model_outputs.values", "batch.returns")
    assert [slots[name].shift for name in ("value_preds", "value_targets")] == [1, 1]


def test_nothing_is_measured_where_the_loss_takes_no_other_batch() -> None:
    assert slots_of(RefusesOddRows)["value_preds"].shift == 0


def test_what_a_name_does_not_say_is_asked_for() -> None:
    with pytest.raises(CannotFeed, match=r"it reads model_outputs\['what'\], which is not in the vocabulary"):
        slots_of(ReadsNothingKnown)


def test_scores_of_both_answers_and_the_label_they_ignore() -> None:
    slots = slots_of(of_both_answers)
    assert slots["chosen_logits"].shape == ("B", "S", "V")
    assert (slots["chosen_logits"].shift, slots["chosen_labels"].ignore) == (1, -1)


def test_lengths_of_responses() -> None:
    slots = slots_of(over_responses)
    assert (slots["response_lengths"].role, slots["log_probs"].shift) == ("lengths", 1)


@pytest.mark.parametrize(
    ("role", "kind"),
    [("logprobs", "model_outputs.next_token_logprobs"), ("values", "values")],
    ids=["as the name says", "as the contract alone says"],
)
def test_names_are_heard_beside_a_field_of_its_own(role: str, kind: str) -> None:
    fields = {
        "log_probs": Field(role, "B T", trainable=True),
        "advantages": Field("advantages", "B T"),
        "loss_mask": Field("mask", "B T"),
        "tilt": Field("values", "B"),
    }
    assert slots_of(with_a_field_of_its_own, Contract(fields=fields))["log_probs"].kind == kind
