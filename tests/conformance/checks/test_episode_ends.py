"""What is said of ends of episodes: a leak, an exchanged sense, and nothing where names alone tell what an input is."""

import torch.nn.functional as F

from loss_conformance import check_loss
from loss_conformance.verdict import Status, Verdict
from loss_reference import Contract, Field

NUMBERS = {name: Field("values", "B", trainable=name == "q") for name in ("q", "next_q", "rewards")}
CRITIC = Contract(family="value", fields={**NUMBERS, "terminated": Field("labels", "B")})


def ends_where_it_goes_on(q, next_q, rewards, terminated):
    return F.mse_loss(q, (rewards + terminated * 0.99 * next_q).detach())


def answer(loss, contract: Contract | None) -> Verdict:
    (verdict,) = (
        v
        for v in check_loss(loss, checks=("ended_episodes",), contract=contract).verdicts
        if v.check == "ended_episodes"
    )
    return verdict


def test_the_opposite_sense_is_named() -> None:
    verdict = answer(ends_where_it_goes_on, CRITIC)
    assert verdict.status is Status.FAILED
    assert verdict.failure is not None
    assert verdict.failure.cause == "terminated is taken for its opposite: next_q matters there alone."
    assert verdict.failure.changed == "every terminated 1; next_q"


def test_names_alone_are_a_guess() -> None:
    def critic(current_q, next_q_values, rewards, dones):
        return F.mse_loss(current_q, (rewards + 0.99 * next_q_values + 0 * dones).detach())

    assert answer(critic, None).status is Status.ADVICE
