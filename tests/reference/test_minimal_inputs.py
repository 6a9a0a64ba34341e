"""What a loss reads and nothing else: every further field may be missing, every one of these may not."""

from __future__ import annotations

import pytest
import torch

from loss_reference import registry
from tests.reference.cases import Tensors
from tests.reference.distillation.extended import chunked_case, extended_case

FULL_TEACHER = {"token_mask", "teacher_logits"}
ON_TOKENS = {"token_mask", "teacher_logprobs"}
CHUNKS = {"teacher_logits", "student_chunk_ids", "teacher_chunk_ids", "chunk_valid"}
# Fields of the batch, then those of the model outputs.
READS: dict[str, tuple[set[str], set[str]]] = {
    **{
        name: (FULL_TEACHER, {"logits"})
        for name in (
            *("forward_kl", "reverse_kl", "mixed_kl", "soft_ce", "generalized_jsd", "skew_forward_kl"),
            *("skew_reverse_kl", "tvd", "topk_renorm", "zero_outside_topk", "tail_bucket", "uld", "hybrid_uld"),
            "cosine_distill",
        )
    },
    "hinton_kd": (FULL_TEACHER | {"input_ids"}, {"logits"}),
    "minillm": (FULL_TEACHER | {"input_ids"}, {"logits"}),
    "sdft": (FULL_TEACHER | {"input_ids", "prev_logprobs"}, {"logits"}),
    "opd_sampled": (ON_TOKENS, {"next_token_logprobs"}),
    "iw_opd": (ON_TOKENS, {"next_token_logprobs"}),
    "sdpo": (ON_TOKENS | {"prev_logprobs"}, {"next_token_logprobs"}),
    "xtoken_pkl": (CHUNKS, {"logits"}),
    "xtoken_gold": (CHUNKS, {"logits"}),
    "value_mse": ({"token_mask", "returns"}, {"values"}),
    "value_clipped": ({"token_mask", "returns", "values"}, {"values"}),
    "pairwise_contrastive": ({"positive_pairs", "negative_pairs"}, {"embeddings"}),
    "infonce": ({"positive_pairs", "negative_pairs"}, {"embeddings"}),
    "margin_contrastive": ({"positive_pairs", "negative_pairs"}, {"embeddings"}),
    **{name: ({"labels"}, {"embeddings"}) for name in ("ntxent", "supcon", "circle", "multi_similarity")},
    "clip_symmetric": (set(), {"image_embeddings", "text_embeddings"}),
    "siglip": (set(), {"image_embeddings", "text_embeddings"}),
    "n_pairs": (set(), {"anchor_embeddings", "positive_embeddings"}),
    "triplet_margin": (set(), {"anchor_embeddings", "positive_embeddings", "negative_embeddings"}),
    "moe_load_balance": (set(), {"router_logits"}),
    "router_z_loss": (set(), {"router_logits"}),
}


def everything(name: str) -> tuple[Tensors, Tensors]:
    """Return a case with all fields that any of these reads."""
    if name.startswith("xtoken"):
        return chunked_case(1, U=5)
    batch, outputs = extended_case(1)
    g = torch.Generator().manual_seed(1)
    lp = -torch.rand(4, 5, generator=g, dtype=torch.float64)
    batch |= {"labels": torch.tensor([0, 1, 0, 1]), "values": torch.randn(4, 6, generator=g, dtype=torch.float64)}
    views = ("embeddings", *(f"{view}_embeddings" for view in ("image", "text", "anchor", "positive", "negative")))
    outputs |= {field: torch.randn(4, 3, generator=g, dtype=torch.float64) for field in views}
    outputs |= {
        "next_token_logprobs": lp,
        "values": torch.randn(4, 6, generator=g, dtype=torch.float64),
        "router_logits": torch.randn(4, 6, 2, 5, generator=g, dtype=torch.float64),
    }
    return batch, outputs


def test_the_families_are_all_there() -> None:
    families = ("distillation", "value", "contrastive", "auxiliary")
    ours = {n for n in registry.names() if registry.get(n).__module__.startswith("loss_reference.")}
    aliases = {name for name in ours if name not in READS and registry.get(name) in map(registry.get, READS)}
    assert {name for name in ours - aliases if registry.get(name).contract.family in families} == set(READS)


@pytest.mark.parametrize("name", READS)
def test_nothing_else_is_needed_and_all_of_it_is(name: str) -> None:
    batch, outputs = everything(name)
    in_batch, in_outputs = READS[name]
    batch, outputs = {k: batch[k] for k in in_batch}, {k: outputs[k] for k in in_outputs}
    loss = registry.create(name)
    value = loss.compute_loss(batch, outputs)
    assert isinstance(value, torch.Tensor)
    assert torch.isfinite(value)
    for field in in_batch:
        with pytest.raises(KeyError, match=field):
            loss.compute_loss({k: x for k, x in batch.items() if k != field}, outputs)
    for field in in_outputs:
        with pytest.raises(KeyError, match=field):
            loss.compute_loss(batch, {k: x for k, x in outputs.items() if k != field})
