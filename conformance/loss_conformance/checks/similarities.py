"""What a contrastive loss is looking at, for the failure block."""

from __future__ import annotations

import torch

from loss_conformance.cases.case import Case
from loss_conformance.report.numbers import number
from loss_conformance.trial import Trial

__all__ = ["similarities"]


def similarities(trial: Trial, case: Case) -> str:
    """Return the largest similarity of a positive pair and the settings that divide it, or the empty string."""
    embeddings, pairs = case.schema.find("model_outputs.embeddings"), case.schema.find("batch.positive_pairs")
    if embeddings is None or pairs is None:
        return ""
    x, (i, j) = case.tensor(embeddings).to(torch.float64), case.tensor(pairs).T
    largest = float((x[i] * x[j]).sum(-1).abs().amax())
    settings = "".join(f", {name} = {value}" for name, value in trial.bench.subject.settings.items())
    return f" (similarity as a dot product up to {number(largest)}{settings})"
