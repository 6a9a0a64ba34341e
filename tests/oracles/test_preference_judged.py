"""The oracles of judged samples against hand-worked numbers, neutral points, reductions and rules."""

from typing import Any

import numpy as np
import pytest

from .preference import dpo
from .preference_judged import nash_md, online_dpo, xpo
from .preference_pairs import ipo
from .preference_terms import sequence_logprob
from .shared_rules import soiled
from .test_oracles import LOG2, NAN, Data, Oracle, arr, gathered, near, random_tokens
from .test_oracles_more import SP1, SP2, at_reference, defaults, log_ratios, permuted


def random_judged(seed: int) -> tuple[Data, Data]:
    batch, outputs = random_tokens(seed)
    batch["labels"] = np.array([1, 0, 0, 0])
    batch["preference_probability"] = np.random.default_rng(seed).random(4)
    return batch, outputs


def test_judged_pairs_by_hand() -> None:
    # Log-ratios 4, 2 and 0, 4; the first rows win and lose: D = 2, 4. Log-probs of the odd rows -7 and -5.
    batch, outputs = log_ratios(4, 2, 0, 4)
    batch["labels"] = arr(1, NAN, 0, NAN)
    expected = (SP1 - 1 + SP2 - 2) / 2
    assert online_dpo(batch, outputs, beta=0.5) == near(expected)
    assert xpo(batch, outputs, beta=0.5, alpha=0.25) == near(expected - 1.5)
    assert xpo(batch, outputs, beta=0.5) == near(expected - 6e-5)
    assert online_dpo(batch, outputs, beta=0.25, loss_type="ipo") == near((0 + 4) / 2)
    assert xpo(batch, outputs, beta=0.25, loss_type="ipo", alpha=1.0) == near(2.0 - 6.0)
    # The explored row is the odd one, whoever wins.
    assert xpo({**batch, "labels": np.zeros(4)}, outputs, beta=0.5, alpha=1.0) == near((SP1 + SP2 - 2) / 2 - 6.0)
    # Pair weights 1/2 and 1.
    batch["sample_mask"] = arr(0.5, 1, 1, 1)
    assert xpo(batch, outputs, beta=0.5, alpha=1.0) == near((0.5 * (SP1 - 1 - 7) + SP2 - 2 - 5) / 1.5)
    with pytest.raises(ValueError, match="loss_type"):
        online_dpo(batch, outputs, loss_type="hinge")


def test_nash_md_by_hand() -> None:
    # Row 0: log-ratios 1, -2 at lp -3, -1, P = 3/4: beta (-3 + 2) - 1/4 (-4). Row 1: 2 at lp -5, P = 0: -10 beta - 5/2.
    batch: Data = {
        "token_mask": arr([1, 1, 1], [1, 0, 1]),
        "reference_policy_logprobs": arr([NAN, -4, 1], [NAN, NAN, -7]),
        "preference_probability": arr(0.75, 0),
    }
    outputs: Data = {"next_token_logprobs": arr([-3, -1], [NAN, -5])}
    assert nash_md(batch, outputs) == near((-0.1 + 1 - 1 - 2.5) / 2)
    assert nash_md(batch, outputs, beta=2.0) == near((-2 + 1 - 20 - 2.5) / 2)
    assert nash_md({**batch, "sample_mask": arr(1, 3)}, outputs, beta=2.0) == near((-1 - 67.5) / 4)


def test_value_where_policy_is_reference() -> None:
    batch, outputs = at_reference(60)
    batch["labels"] = np.array([1, 0, 0, 0])
    assert online_dpo(batch, outputs) == near(LOG2)
    assert online_dpo(batch, outputs, loss_type="ipo", beta=0.5) == near(1.0)
    explored = (sequence_logprob(batch, outputs, 1, False) + sequence_logprob(batch, outputs, 3, False)) / 2
    assert xpo(batch, outputs, alpha=0.5) == near(LOG2 + 0.5 * explored)
    assert nash_md({**batch, "preference_probability": np.full(4, 0.5)}, outputs) == near(0.0)


def test_reductions() -> None:
    batch, outputs = random_judged(61)
    assert xpo(batch, outputs, alpha=0.0) == near(online_dpo(batch, outputs))
    ordered, policy = permuted(batch, [0, 1, 3, 2]), permuted(outputs, [0, 1, 3, 2])
    assert online_dpo(batch, outputs) == near(dpo(ordered, policy))
    assert online_dpo(batch, outputs, loss_type="ipo") == near(ipo(ordered, policy))
    # Swapping two samples and the label changes nothing without exploration.
    swapped = {**permuted(batch, [1, 0, 3, 2]), "labels": np.array([0, 1, 1, 0])}
    assert online_dpo(swapped, permuted(outputs, [1, 0, 3, 2])) == near(online_dpo(batch, outputs))


ALL: list[tuple[Oracle, dict[str, Any]]] = [
    (online_dpo, {}),
    (online_dpo, {"loss_type": "ipo"}),
    (xpo, {"alpha": 0.3}),
    (nash_md, {}),
]


@pytest.mark.parametrize(("oracle", "config"), ALL)
def test_judged_losses_share_their_rules(oracle: Oracle, config: dict[str, Any]) -> None:
    batch, outputs = random_judged(62)
    value = oracle(batch, outputs, **config)
    assert isinstance(value, float)
    lp: Data = {"next_token_logprobs": gathered(batch, outputs)}
    assert oracle(batch, lp, **config) == near(value)
    assert oracle({k: v for k, v in batch.items() if k != "sample_mask"}, lp, **config) == near(value)
    for rows in ([2, 3, 0, 1], [0, 1, 2, 3, 0, 1, 2, 3]):
        assert oracle(permuted(batch, rows), permuted(lp, rows), **config) == near(value)
    assert oracle({**batch, "global_valid_seqs": np.array(16.0)}, lp, **config) == near(value / 4)
    assert oracle(*soiled(batch, lp, absent_rows=2), **config) == near(value)
    assert oracle({**batch, "sample_mask": np.zeros(4)}, lp, **config) == 0.0


def test_default_settings() -> None:
    assert defaults(online_dpo) == {"beta": 0.1, "loss_type": "sigmoid"}
    assert defaults(xpo) == {"beta": 0.1, "alpha": 1e-5, "loss_type": "sigmoid"}
    assert defaults(nash_md) == {"beta": 0.1}
