"""Random answers with everything a preference loss may read, and the losses of judged, grouped and unpaired answers."""

from __future__ import annotations

from typing import Any, Final

import torch

from tests.reference.cases import Tensors, case

FULL_VOCABULARY: Final = ("wpo", "tdpo1", "tdpo2")
TRIPLES: Final = ("tpo", "tpo_l")
GROUPS: Final = ("infonca", "plackett_luce_dpo", "lipo", "rrhf")
UNPAIRED: Final = ("apo_zero_unpaired", "kto", "bco", "nash_md")
PAIRS: Final = (*FULL_VOCABULARY, "beta_dpo", "rpo_scale", "sppo_soft", "xpo", "online_dpo", "chi_po")
ANSWER_LOSSES: Final = PAIRS + UNPAIRED + GROUPS + TRIPLES
STATEFUL: Final = ("bco", "beta_dpo")


def source_of(name: str) -> str:
    """Return the model output that the loss trains, logits where it needs the whole vocabulary."""
    return "logits" if name in FULL_VOCABULARY else "next_token_logprobs"


def answers(seed: int, *, rows: int = 12, dtype: torch.dtype = torch.float64, **kwargs: Any) -> tuple[Tensors, Tensors]:
    """Return a case whose batch also has rewards, labels, probabilities, a selection and the logits of a reference.

    Row 0 has no trained token and row 2 weighs nothing, unless told otherwise; with 12 rows whole pairs, triples and groups of
    four are left.
    """
    batch, outputs = case(seed, rows=rows, dtype=dtype, **kwargs)
    g = torch.Generator().manual_seed(1000 + seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    batch["rewards"] = normal(rows)
    batch["labels"] = torch.randint(2, (rows,), generator=g)
    batch["preference_probability"] = normal(rows).sigmoid()
    batch["desirable_probability"] = normal(rows).sigmoid()
    batch["mismatched_log_ratios"] = normal(rows) + 0.5
    batch["selection_mask"] = (torch.arange(rows) % 5 != 4).to(dtype)
    batch["reference_logits"] = normal(*batch["teacher_logits"].shape)
    return batch, outputs


def answers_for(name: str, seed: int, **kwargs: Any) -> tuple[Tensors, Tensors]:
    """Return answers with the model output that the loss trains."""
    return answers(seed, source=source_of(name), **kwargs)


def one_token(
    h: list[float], *, p: float = -1.0, dtype: torch.dtype = torch.float64, **fields: Any
) -> tuple[Tensors, Tensors]:
    """Return answers of one token with these log-ratios, every log-probability ``p``, and further fields of the batch."""
    lp = torch.full((len(h), 1), p, dtype=dtype)
    reference = lp - torch.tensor(h, dtype=dtype).unsqueeze(1)
    batch = {
        "input_ids": torch.zeros(len(h), 2, dtype=torch.long),
        "token_mask": torch.tensor([[0.0, 1.0]] * len(h), dtype=dtype),
        "reference_policy_logprobs": torch.cat([torch.zeros_like(reference), reference], dim=1),
    }
    further = {k: x if isinstance(x, torch.Tensor) else torch.tensor(x, dtype=dtype) for k, x in fields.items()}
    return {**batch, **further}, {"next_token_logprobs": lp}
