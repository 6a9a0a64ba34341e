"""Rules that every oracle keeps, whatever its formula: what weighs nothing is never read."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Data = dict[str, NDArray[Any]]
Oracle = Callable[..., float]

# [B, S, ..] fields whose entry t predicts token t+1; the other float [B, S] fields speak of token t itself.
PREDICTING = (
    *("logits", "draft_logits", "mtp_logits", "reference_logits"),
    *("teacher_logits", "teacher_topk_logits", "teachers_logits"),
)


def without_untrained(fields: Data, token_mask: NDArray[Any]) -> Data:
    """The fields with NaN at every token or position that no loss of next tokens may read."""
    rows, width = token_mask.shape
    cleaned: Data = {}
    for name, value in fields.items():
        value = value.copy()
        if name == "next_token_logprobs":
            value[token_mask[:, 1:] == 0.0] = math.nan
        elif value.shape[:2] == (rows, width) and value.dtype.kind == "f" and name != "token_mask":
            unread = np.ones((rows, width), dtype=bool)
            if name in PREDICTING:
                unread[:, :-1] = token_mask[:, 1:] == 0.0
            else:
                unread[:, 1:] = token_mask[:, 1:] == 0.0
            value[unread] = math.nan
        cleaned[name] = value
    return cleaned


def with_absent_rows(batch: Data, outputs: Data, rows: int) -> tuple[Data, Data]:
    """Further rows of sample_mask 0 that hold nothing but NaN, and ids that no vocabulary has."""
    present = batch["sample_mask"].shape[0] if "sample_mask" in batch else batch["token_mask"].shape[0]
    batch = {"sample_mask": np.ones(present), **batch}

    def longer(fields: Data) -> Data:
        grown = {}
        for name, value in fields.items():
            if value.ndim == 0 or value.shape[0] != present:
                grown[name] = value
                continue
            filler = math.nan if value.dtype.kind == "f" else -7
            grown[name] = np.concatenate([value, np.full((rows, *value.shape[1:]), filler, dtype=value.dtype)])
        return grown

    batch, outputs = longer(batch), longer(outputs)
    batch["sample_mask"][present:] = 0.0
    if "token_mask" in batch:
        batch["token_mask"][present:] = 1.0
    return batch, outputs


def soiled(batch: Data, outputs: Data, absent_rows: int = 0) -> tuple[Data, Data]:
    """The batch and outputs without what no loss may read, and with further rows of it."""
    mask = batch["token_mask"]
    return with_absent_rows(without_untrained(batch, mask), without_untrained(outputs, mask), absent_rows)


def check_absence(oracle: Oracle, batch: Data, outputs: Data, *, rows: int = 1, **settings: Any) -> float:
    """The value, after seeing that absent rows change nothing and that a wholly absent batch is 0."""
    value = oracle(batch, outputs, **settings)
    assert isinstance(value, float)
    assert math.isfinite(value)
    near = pytest.approx(value, rel=1e-12, abs=1e-12)
    assert oracle(*with_absent_rows(batch, outputs, rows), **settings) == near
    absent = np.zeros_like(batch["sample_mask"])
    assert oracle({**batch, "sample_mask": absent}, outputs, **settings) == 0.0
    return value


def check_token_rules(oracle: Oracle, batch: Data, outputs: Data, *, rows: int = 1, **settings: Any) -> None:
    """check_absence, untrained places, the default row weight, and the halves of a batch under shared counts."""
    value = check_absence(oracle, batch, outputs, rows=rows, **settings)
    near = pytest.approx(value, rel=1e-12, abs=1e-12)
    mask = batch["token_mask"]
    assert oracle(*soiled(batch, outputs), **settings) == near
    unweighted = {name: field for name, field in batch.items() if name != "sample_mask"}
    ones = {**batch, "sample_mask": np.ones(mask.shape[0])}
    assert oracle(unweighted, outputs, **settings) == pytest.approx(oracle(ones, outputs, **settings), rel=1e-12)
    counts = {"global_valid_toks": np.array(40.0), "global_valid_seqs": np.array(8.0)}
    halves = 0.0
    for half in (slice(None, 2), slice(2, None)):
        part = {name: field[half] for name, field in batch.items()} | counts
        halves += oracle(part, {name: field[half] for name, field in outputs.items()}, **settings)
    assert halves == pytest.approx(oracle(batch | counts, outputs, **settings), rel=1e-12, abs=1e-12)
