"""Packed sequences against numbers worked out by hand, the padded loss and the sum over sequences."""

import numpy as np
import pytest

from .composite_presets import COMPONENTS
from .sequence_packing import sequence_packing
from .supervised import nll
from .test_oracles import NAN, Data, arr, near, random_tokens
from .test_oracles_more import SP1

LENGTHS = [6, 3, 1, 4]


def packed(fields: Data) -> Data:
    """The rows of LENGTHS end to end; what the last token of one says of the first of the next is NaN."""
    joined = {}
    for name, value in fields.items():
        if value.ndim < 2:
            joined[name] = value
        elif name == "next_token_logprobs":
            ends = np.full((4, 1), NAN)
            rows = np.concatenate([value, ends], axis=1)
            joined[name] = np.concatenate([row[:n] for row, n in zip(rows, LENGTHS, strict=True)])[None, :-1]
        else:
            joined[name] = np.concatenate([row[:n] for row, n in zip(value, LENGTHS, strict=True)])[None]
    return joined


def test_by_hand() -> None:
    # Sequences of 3, 1 and 2 tokens, all trained: log-probs -1, -2, none, -4. Weights 1, 1/2, 2: 11 / 4.
    batch: Data = {"token_mask": np.ones((1, 6)), "input_lengths": np.array([3, 1, 2])}
    outputs: Data = {"next_token_logprobs": arr([-1, -2, NAN, NAN, -4])}
    assert sequence_packing(batch, outputs) == near(7 / 3)
    assert sequence_packing({**batch, "sample_mask": arr(1, 0.5, 2)}, outputs) == near(11 / 4)
    assert sequence_packing({**batch, "global_valid_toks": np.array(14.0)}, outputs) == near(0.5)
    by_row = {"type": "nll", "aggregation": "seq_mean_token_mean"}
    assert sequence_packing(batch, outputs, loss=by_row) == near((1.5 + 0 + 4) / 3)
    # Two sequences are a pair: log-ratios 1 + 1 and 0, x = 1.
    pair: Data = {
        "token_mask": arr([0, 1, 1, 0, 1]),
        "input_lengths": np.array([3, 2]),
        "reference_policy_logprobs": arr([NAN, -2, -3, NAN, -4]),
    }
    pair_outputs: Data = {"next_token_logprobs": arr([-1, -2, NAN, -4])}
    assert sequence_packing(pair, pair_outputs, loss={"type": "dpo", "beta": 0.5}) == near(SP1 - 1)
    assert sequence_packing({**batch, "input_lengths": np.array([0, 0])}, outputs) == 0.0


@pytest.mark.parametrize("source", ["logits", "next_token_logprobs"])
@pytest.mark.parametrize("name", ["nll", "dpo", "ppo_clip"])
def test_equals_the_padded_loss_and_the_sum_over_sequences(name: str, source: str) -> None:
    batch, outputs = random_tokens(62)
    batch["sample_mask"] = arr(1, 0.5, 2, 1)
    batch["token_mask"][np.arange(6) >= np.array(LENGTHS)[:, None]] = 0.0
    if source != "logits":
        outputs = {source: -np.random.default_rng(62).random((4, 5))}
    oracle = COMPONENTS[name]
    value = oracle(batch, outputs)
    joined: Data = {**packed(batch), "input_lengths": np.array(LENGTHS)}
    assert sequence_packing(joined, packed(outputs), loss={"type": name}) == near(value)
    # Outputs with a row for each sequence need no unpacking.
    assert sequence_packing(joined, outputs, loss={"type": name}) == near(value)
    weights = batch["sample_mask"]
    toks = float((batch["token_mask"][:, 1:] * weights[:, None]).sum())
    pairs = 2 * float(np.minimum(weights[::2], weights[1::2]).sum())
    counts: Data = {"global_valid_toks": np.array(toks), "global_valid_seqs": np.array(pairs)}
    size = 2 if name == "dpo" else 1
    parts = [
        oracle(
            {k: v[i : i + size] for k, v in batch.items()} | counts, {k: v[i : i + size] for k, v in outputs.items()}
        )
        for i in range(0, 4, size)
    ]
    assert sum(parts) == near(value)


def test_one_sequence_is_itself() -> None:
    batch, outputs = random_tokens(63)
    one: Data = {name: value[:1] for name, value in batch.items()}
    logits: Data = {"logits": outputs["logits"][:1]}
    assert sequence_packing({**one, "input_lengths": np.array([6])}, logits) == near(nll(one, logits))
    assert sequence_packing({**one, "input_lengths": np.array([0, 6])} | {"sample_mask": arr(1, 1)}, logits) == near(
        nll(one, logits)
    )
