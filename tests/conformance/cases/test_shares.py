"""Shares of one batch, and the batch they make."""

from dataclasses import replace

import torch

from loss_conformance.cases.build import build
from loss_conformance.cases.plan import Plan
from loss_conformance.cases.shares import joined, of_one_batch
from loss_conformance.cases.slot import Schema, Slot, vocabulary_slot

PLAN = Plan("full", "typical", 3, 4, 5, 2, 3, 2, "full", "ones", True, 4)


def _slots(*names: str) -> tuple[Slot, ...]:
    found = [vocabulary_slot(place, name) for place, name in (name.split(".") for name in names)]
    return tuple(slot for slot in found if slot is not None)


def _shares(*names: str) -> list:
    schema = Schema(_slots(*names))
    shares = of_one_batch([build(schema, replace(PLAN, seed=seed)) for seed in (4, 14)])
    assert shares is not None
    return shares


def test_rows_follow_each_other() -> None:
    shares = _shares("model_outputs.next_token_logprobs", "batch.token_mask")
    whole = joined(shares)
    key = 'model_outputs["next_token_logprobs"]'
    assert torch.equal(whole.tensors[key], torch.cat([share.tensors[key] for share in shares]))
    assert whole.trained.shape[0] == len(whole.rows) == 6


def test_pairs_name_the_rows_of_their_own_share() -> None:
    shares = _shares("model_outputs.embeddings", "batch.positive_pairs")
    whole = joined(shares)
    x, pairs = whole.tensors['model_outputs["embeddings"]'], whole.tensors['batch["positive_pairs"]']
    second = shares[1].tensors
    assert torch.equal(x[pairs[2:]], second['model_outputs["embeddings"]'][second['batch["positive_pairs"]']])


def test_a_count_is_that_of_all_shares() -> None:
    shares = _shares("model_outputs.next_token_logprobs", "batch.token_mask", "batch.global_valid_toks")
    counts = {float(share.tensors['batch["global_valid_toks"]']) for share in shares}
    assert counts == {2 * 3 * 3.0}


def test_what_compares_all_rows_with_all_is_no_share() -> None:
    schema = Schema((Slot("argument", "similarities", "values", "values", ("B", "B")),))
    assert of_one_batch([build(schema, PLAN), build(schema, PLAN)]) is None
