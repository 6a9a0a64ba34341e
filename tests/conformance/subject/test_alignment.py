"""Which token the logits speak of: as declared, else as the loss is seen to read them."""

from dataclasses import replace
from typing import Any

import pytest

from loss_conformance.subject.load import load_subject
from loss_reference import Contract, Field
from tests.faults.modes import within_documents
from tests.faults.sound_declared import FullDivergencePreference, PairOfSequences, SecondHead

FIELDS = {"logits": Field("logits", "B S V"), "input_ids": Field("token_ids", "B S"), "mask": Field("mask", "B S")}


def slots_of(loss: Any, contract: Contract | None = None) -> dict[str, Any]:
    subject = load_subject(loss, contract=contract)
    declared = contract or getattr(loss, "contract", Contract())
    return {slot.name: slot for slot in subject.protocol.routes(subject.loss, declared)[0].slots}


def of_the_next_token(logits, input_ids, mask):
    log_p = logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)
    return -log_p.masked_fill(mask[:, 1:] == 0, 0.0).sum() / mask[:, 1:].sum().clamp(min=1)


def from_hidden_states(hidden_states, lm_head_weight, labels):
    log_p = (hidden_states[:, :-1] @ lm_head_weight.T).log_softmax(-1)
    kept = labels[:, 1:] != -100
    terms = -log_p.gather(-1, labels[:, 1:, None].clamp(min=0)).squeeze(-1)
    return terms.masked_fill(~kept, 0.0).sum() / kept.sum().clamp(min=1)


def distance(hydra, mask):
    return hydra[:, :-1].logsumexp(-1).masked_fill(mask[:, 1:] == 0, 0.0).sum()


@pytest.mark.parametrize(("said", "shift"), [(None, 1), ("next", 1), ("itself", 0), ("later", 1)])
def test_what_is_said_is_kept_and_what_is_left_open_is_measured(said: str | None, shift: int) -> None:
    fields = {**FIELDS, "logits": Field("logits", "B S V", trainable=True, speaks_of=said)}
    slot = slots_of(of_the_next_token, Contract(family="supervised", fields=fields))["logits"]
    assert (slot.shift, slot.later) == (shift, False)


def test_hidden_states_speak_of_the_token_their_scores_predict() -> None:
    assert slots_of(from_hidden_states)["hidden_states"].shift == 1


def test_beside_a_mask_alone_nothing_is_measured() -> None:
    fields = {"hydra": replace(FIELDS["logits"], trainable=True), "mask": FIELDS["mask"]}
    assert slots_of(distance, Contract(fields=fields))["hydra"].shift == 0


def test_both_sides_of_a_pair_are_measured() -> None:
    slots = slots_of(PairOfSequences)
    assert [slots[name].shift for name in ("chosen_logits", "rejected_logits")] == [1, 1]


def test_a_head_is_read_from_the_mapping_it_arrives_in() -> None:
    head = slots_of(SecondHead)["second_logits"]
    assert (head.place, head.trainable, head.shift, head.later) == ("model_outputs", True, 2, False)


def test_a_field_declared_as_it_is_known_keeps_its_values() -> None:
    assert slots_of(FullDivergencePreference)["reference_logits"].kind == "batch.reference_logits"


def test_numbers_of_documents_hold_no_ignored_label() -> None:
    fields = {
        "logits": Field("logits", "B S V"),
        "input_ids": Field("token_ids", "B S"),
        "document_ids": Field("labels", "B S"),
    }
    assert slots_of(within_documents, Contract(fields=fields))["document_ids"].ignore is None
