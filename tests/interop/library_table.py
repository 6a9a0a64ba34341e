"""The library table as data: every row says how a loss compares with a library's, and carries the comparison itself."""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.interop.comparison import Row
from tests.interop.rows import (
    classification,
    liger_policy,
    liger_preference,
    metric_learning,
    openrlhf,
    pytorch_distillation,
    pytorch_pairs,
    pytorch_tokens,
    ranking,
    torchtune,
    trl_distillation,
    trl_others,
    trl_pairs,
    trl_policy,
    trl_preference,
    two_views,
    verl,
    verl_corrections,
)


class Release(NamedTuple):
    """What the rows of a library were last compared with, and how its inputs were made the same as ours."""

    distribution: str
    version: str
    inputs: str = ""


HALVES: Final = 'pairs are the halves of the batch (`pair_layout="halves"`)'

RELEASES: Final[dict[str, Release]] = {
    "torch": Release("torch", "2.13.0", "the trained tokens alone, or labels of -100 elsewhere"),
    "trl": Release(
        "trl",
        "1.16.0",
        f"the loss methods of the trainers, of a model that returns the logits; {HALVES}, triples its thirds",
    ),
    "liger_kernel": Release(
        "liger_kernel",
        "0.8.5",
        f"hidden states are the logits, the head is the identity; {HALVES}; float32",
    ),
    "torchtune": Release("torchtune", "0.6.1", "log-probabilities of whole answers; distillation in float32"),
    "verl": Release("verl", "0.9.1", "log-probabilities of tokens; its loss modules alone, without a cluster"),
    "openrlhf": Release("openrlhf", "0.11.2", "log-probabilities; its loss modules alone, without a cluster"),
    "pytorch_metric_learning": Release("pytorch-metric-learning", "2.9.0", "pairs and triplets of the same rows"),
    "open_clip": Release("open_clip_torch", "3.3.0", "embeddings divided by their lengths"),
    "lightly": Release("lightly", "1.6.0", "two views, labelled by their row"),
    "info_nce": Release("info-nce-pytorch", "0.1.4", "query, positive and negatives as rows of one batch"),
    "monai": Release("monai", "1.6.1", "computes in float32"),
    "kornia": Release("kornia", "0.9.0", "the trained tokens alone; scores of single classes"),
    "torchvision": Release("torchvision", "0.29.2", "scores of single classes"),
    "timm": Release("timm", "1.0.31", "the trained tokens alone"),
    "transformers": Release("transformers", "5.23.0", "labels of -100 where nothing is trained"),
    "sentence_transformers": Release(
        "sentence-transformers", "6.2.0", "embeddings, without the model in front of them"
    ),
    "segmentation_models_pytorch": Release(
        "segmentation_models_pytorch", "0.6.0", "labels of -100 where nothing is trained"
    ),
    "pytorch_toolbelt": Release("pytorch_toolbelt", "0.8.0", "labels of -100 where nothing is trained"),
    "speechbrain": Release("speechbrain", "1.1.2", "the trained tokens alone"),
    "allrank": Release("allRank", "1.4.3", "rows of K answers"),
}
"""The release of every library that the comparisons were last run with, by the name it is imported under."""

TABLE: Final[tuple[Row, ...]] = (
    *pytorch_tokens.ROWS,
    *pytorch_distillation.ROWS,
    *pytorch_pairs.ROWS,
    *trl_preference.ROWS,
    *trl_policy.ROWS,
    *trl_others.ROWS,
    *trl_pairs.ROWS,
    *trl_distillation.ROWS,
    *liger_preference.ROWS,
    *liger_policy.ROWS,
    *torchtune.ROWS,
    *verl.ROWS,
    *verl_corrections.ROWS,
    *openrlhf.ROWS,
    *metric_learning.ROWS,
    *two_views.ROWS,
    *classification.ROWS,
    *ranking.ROWS,
)
