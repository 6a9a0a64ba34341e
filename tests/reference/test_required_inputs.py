"""Supervised and reward losses ask for what their formulas name and for nothing else."""

from __future__ import annotations

import pytest
import torch

from loss_reference import registry
from tests.reference.cases import Tensors, case, value_and_gradient
from tests.reference.reward.test_reward_against_oracles import reward_case

LP, MASK, IDS = "next_token_logprobs", "token_mask", "input_ids"
NEEDS: list[tuple[str, str, tuple[str, ...]]] = [
    *((name, LP, (MASK,)) for name in ("nll", "focal_ce", "poly1_ce", "dft")),
    *((name, "logits", (MASK, IDS)) for name in ("nll", "focal_ce", "poly1_ce", "dft")),
    ("weighted_nll", LP, (MASK, "token_weights")),
    *((name, "logits", (MASK, IDS)) for name in ("label_smoothed_ce", "unlikelihood", "confidence_penalty")),
    ("z_loss", "logits", (MASK,)),
    ("mtp_ce", "mtp_logits", (MASK, IDS)),
    *((name, "rewards", ()) for name in ("bradley_terry", "bt_centered", "logexp_pairwise")),
    ("bt_margin", "rewards", ("margin",)),
    ("bt_soft_label", "rewards", ("preference_probability",)),
    ("reward_regression", "rewards", ("scores",)),
    ("orm_bce", "rewards", ("labels",)),
    *((name, "rewards", ("rewards",)) for name in ("all_pairs_k", "plackett_luce_rm")),
    ("prm_token_ce", "logits", (MASK, "step_labels")),
]


def everything(name: str, output: str) -> tuple[Tensors, Tensors]:
    if registry.get(name).__module__.startswith("loss_reference.reward"):
        return reward_case(name, 11, sample_mask=None)
    batch, outputs = case(11, source="logits" if output == "mtp_logits" else output, sample_mask=None)
    batch["token_weights"] = torch.rand(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    outputs["mtp_logits"] = torch.randn(4, 6, 2, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return batch, outputs


def test_none_is_left_out() -> None:
    families = ("loss_reference.supervised.", "loss_reference.reward.")
    there = {registry.get(name) for name in registry.names() if registry.get(name).__module__.startswith(families)}
    assert {registry.get(name) for name, _, _ in NEEDS} == there


@pytest.mark.parametrize(("name", "output", "fields"), NEEDS, ids=[f"{name}-{output}" for name, output, _ in NEEDS])
def test_what_it_needs(name: str, output: str, fields: tuple[str, ...]) -> None:
    batch, outputs = everything(name, output)
    only = {field: batch[field] for field in fields}, {output: outputs[output]}
    expected = value_and_gradient(name, batch, outputs if output != LP else only[1], output)
    got = value_and_gradient(name, *only, output)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    for field in fields:
        with pytest.raises(KeyError, match=field):
            registry.create(name).compute_loss({k: x for k, x in only[0].items() if k != field}, only[1])
    with pytest.raises(KeyError, match=output):
        registry.create(name).compute_loss(only[0], {})
