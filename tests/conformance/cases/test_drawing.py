"""Drawing plans: the same seed gives the same, and shrinking finds small ones."""

import os
import subprocess
import sys

import pytest
import torch

from loss_conformance.cases.build import build
from loss_conformance.cases.plan import SITUATIONS, Plan
from loss_conformance.cases.pool import draw_pool, smallest_plan
from loss_conformance.cases.slot import Schema
from tests.conformance.cases.everything import SLOTS, pool

PRINT = "from loss_conformance.cases.pool import draw_pool; print(sorted(draw_pool(4, 7).items()))"


def test_the_same_seed_draws_the_same_plans() -> None:
    assert draw_pool(6, 7) == draw_pool(6, 7)


def test_another_seed_draws_others() -> None:
    one, other = draw_pool(6, 7), draw_pool(6, 8)
    assert all(one[situation] != other[situation] for situation in SITUATIONS)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_plans_do_not_depend_on_the_hash_seed(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    drawn = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, text=True, check=True, env=environment)
    assert drawn.stdout.strip() == str(sorted(draw_pool(4, 7).items()))


def test_drawing_leaves_the_random_generators_alone() -> None:
    before = torch.get_rng_state()
    draw_pool(3, 5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("situation", SITUATIONS)
def test_plans_are_distinct_and_of_their_situation(situation: str) -> None:
    plans = pool()[situation]
    assert len(set(plans)) == len(plans)
    assert {plan.situation for plan in plans} == {situation}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_plan_always_builds_the_same_case(situation: str) -> None:
    plan = pool()[situation][0]
    torch.rand(3)
    one, other = build(Schema(SLOTS), plan), build(Schema(SLOTS), plan)
    assert all(torch.equal(one.tensors[key], other.tensors[key]) for key in one.tensors)


def test_a_field_does_not_change_with_the_others_that_are_asked_for() -> None:
    """The policy is the same whether the loss reads logits, log-probabilities, or both."""
    plan = pool()["typical"][0]
    alone = build(Schema(tuple(s for s in SLOTS if s.name in ("next_token_logprobs", "token_mask"))), plan)
    both = build(Schema(tuple(s for s in SLOTS if s.name in ("logits", "next_token_logprobs", "token_mask"))), plan)
    assert all(torch.equal(tensor, both.tensors[key]) for key, tensor in alone.tensors.items())


def test_shrinking_finds_the_smallest_plan_that_still_fails() -> None:
    plan = max(pool()["typical"], key=lambda p: (p.rows, p.tokens, p.seed))
    found, attempts = smallest_plan(plan, lambda candidate: candidate.rows >= 3, 0)
    assert (found.rows, found.tokens, found.vocabulary, found.seed) == (3, 3, 3, 0)
    assert found.situation == "typical"
    assert 0 < attempts <= 150


def test_shrinking_what_never_fails_again_returns_the_plan_itself() -> None:
    plan = pool()["holes"][0]

    def never(candidate: Plan) -> bool:
        return False

    found, attempts = smallest_plan(plan, never, 0)
    assert found == plan
    assert attempts >= 1


def test_shrinking_a_failure_that_comes_and_goes_tries_each_plan_once() -> None:
    plan = pool()["typical"][0]
    tried: list[Plan] = []

    def now_and_then(candidate: Plan) -> bool:
        tried.append(candidate)
        return len(tried) % 2 == 1

    found, attempts = smallest_plan(plan, now_and_then, 0)
    assert len(tried) == len(set(tried)) == attempts
    assert found == plan or found in tried
