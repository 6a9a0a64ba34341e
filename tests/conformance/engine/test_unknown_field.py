"""A loss that reads a field nobody knows is told which, and the line that declares it."""

import pytest

from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.verdict import Status
from loss_reference import Contract, Field, LossFunction
from tests.conformance.engine.misbehaving import quick_engine

BATCH_FIELDS = (
    "input_ids, input_lengths, token_mask, sample_mask, reference_policy_logprobs, reference_logits, prev_logprobs, "
    "generation_logprobs, advantages, returns, values, rewards, labels, document_ids, teacher_logits, teacher_logprobs, "
    "teacher_topk_logits, teacher_topk_indices, positive_pairs, negative_pairs, global_valid_toks, global_valid_seqs"
)


class ReadsScores(LossFunction):
    def compute_loss(self, batch, model_outputs):
        return (batch["my_scores"] * model_outputs["values"]).mean()


class ReadsLogit(LossFunction):
    def compute_loss(self, batch, model_outputs):
        return model_outputs["logit"].mean()


class Declared(ReadsScores):
    contract = Contract(fields={"my_scores": Field(role="values", shape="B S")})


def refusal(loss: type[LossFunction]) -> CannotFeed:
    with pytest.raises(CannotFeed) as refused:
        quick_engine(loss).run("scalar_output")
    return refused.value


def test_in_the_batch() -> None:
    assert str(refusal(ReadsScores)) == (
        "it reads batch['my_scores'], which is not in the vocabulary\n"
        f"  known fields of batch: {BATCH_FIELDS}\n"
        "  to declare one of your own, add to the class:\n"
        '      contract = Contract(fields={"my_scores": Field(role="values", shape="B S")})'
    )


def test_in_the_model_outputs_with_the_nearest_name() -> None:
    assert str(refusal(ReadsLogit)) == (
        "it reads model_outputs['logit'], which is not in the vocabulary; did you mean 'logits'?\n"
        "  known fields of model_outputs: logits, next_token_logprobs, values, rewards, embeddings\n"
        "  to declare one of your own, add to the class:\n"
        '      contract = Contract(fields={"logit": Field(role="values", shape="B S", trainable=True)})'
    )


def test_the_traceback_is_the_users_own() -> None:
    shown = refusal(ReadsScores).traceback
    assert 'batch["my_scores"]' in shown
    assert shown.rstrip().endswith("""KeyError: "batch has no 'my_scores'\"""")
    assert "loss_conformance" not in shown


def test_the_line_it_was_told_to_add_works() -> None:
    assert quick_engine(Declared).run("scalar_output").status is Status.PASSED
