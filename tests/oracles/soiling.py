"""A batch with NaN at every place that no loss may look at: the same case for every oracle."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Data = dict[str, NDArray[Any]]


def soiled(batch: Data, outputs: Data, absent_rows: int = 0) -> tuple[Data, Data]:
    """NaN at the untrained entries of every field, and rows of NaN with sample_mask 0 appended.

    A batch field [B,S] speaks of its own column's token, a field [B,S,..] with a vocabulary and an output of S-1
    columns of the next one's. input_ids stay, and are out of the vocabulary in the rows appended.
    """
    mask = batch["token_mask"]
    rows, width = mask.shape
    own = mask == 0.0
    own[:, 0] = True
    following = np.concatenate([own[:, 1:], np.ones((rows, 1), bool)], axis=1)
    dirty: list[Data] = []
    for fields in (batch, outputs):
        copies: Data = {}
        for name, value in fields.items():
            spoiled = value.copy()
            if name not in ("token_mask", "sample_mask", "input_ids") and value.ndim >= 2:
                if value.ndim >= 3:
                    spoiled[following] = math.nan
                else:
                    spoiled[own if value.shape[1] == width else own[:, 1:]] = math.nan
            if value.ndim and absent_rows:
                filler = np.full_like(spoiled[:1], math.nan if value.dtype.kind == "f" else -7)
                spoiled = np.concatenate([spoiled, *([filler] * absent_rows)])
            copies[name] = spoiled
        dirty.append(copies)
    if absent_rows:
        dirty[0]["token_mask"][rows:] = 1.0
        present = batch.get("sample_mask", np.ones(rows))
        dirty[0]["sample_mask"] = np.concatenate([present, np.zeros(absent_rows)])
    return dirty[0], dirty[1]
