"""Every distillation loss beside an oracle that somebody else wrote from the same formula."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from tests.oracles import distillation_divergences as divergences
from tests.oracles import distillation_sampled as on_sampled
from tests.oracles import distillation_topk as topk
from tests.oracles import distillation_vocabularies as vocabularies
from tests.reference.agreement import assert_agrees
from tests.reference.cases import Tensors
from tests.reference.distillation.extended import chunked_case, extended_case
from tests.reference.test_against_oracles import Oracle, arrays

Config = dict[str, Any]
MASKS = [None, "zeros", "floats"]
KLS: list[Config] = [{"kl_type": "reverse"}, {"kl_type": "mixed", "mixed_kl_weight": 0.3, "temperature": 2.0}]
MAP = [2, -1, 0, 5, -1]

# Name, oracle, configs beside the default, whether the gradient is that of the value with nothing held constant.
LOSSES: list[tuple[str, Any, list[Config], bool]] = [
    ("soft_ce", divergences.soft_ce, [{"temperature": 0.5}], True),
    ("generalized_jsd", divergences.generalized_jsd, [{"beta": b, "temperature": 2.0} for b in (0.0, 0.1, 0.9, 1.0)], True),
    ("skew_forward_kl", divergences.skew_forward_kl, [
        *({"skew": s, "temperature": 0.7} for s in (0.0, 0.5, 1.0)),
        *({"skew": s, "forward_part": "cross_entropy"} for s in (0.0, 0.5)),
    ], True),
    ("skew_reverse_kl", divergences.skew_reverse_kl, [{"skew": s, "temperature": 0.7} for s in (0.0, 0.5, 1.0)], True),
    ("tvd", divergences.tvd, [{"temperature": 2.0}], True),
    (
        "hinton_kd",
        divergences.hinton_kd,
        [{"alpha": 0.0}, {"alpha": 1.0}, {"alpha": 0.3, "temper_hard": True}, {"scale_soft": False, "temperature": 3.0}],
        True,
    ),
    ("cosine_distill", divergences.cosine_distill, [{"beta": 2.0}, {"hard_weight": 0.3}], True),
    ("topk_renorm", topk.topk_renorm, KLS, True),
    ("zero_outside_topk", topk.zero_outside_topk, KLS, True),
    ("minillm", on_sampled.minillm, [{"gamma": 0.0}, {"gamma": 0.9, "length_normalization": False, "temperature": 2.0},
        {"single_step_weight": 0.0, "ratio_clip_min": 0.5, "ratio_clip_max": 0.1},
        *({"discount": "absolute", "gamma": g, "length_normalization": n} for g, n in ((0.6, False), (0.0, False))),
        {"padding": "counted"}, {"padding": "counted", "discount": "absolute", "gamma": 0.7, "length_normalization": False},
        {"detach_reward": False, "gamma": 0.7}, {"detach_reward": False, "padding": "counted", "temperature": 2.0},
        ], False),
    ("opd_sampled", on_sampled.opd_sampled, [], False),
    ("iw_opd", on_sampled.iw_opd, [{"gamma": 0.0}, {"gamma": 1.0}], False),
    ("sdft", on_sampled.sdft, [{"alpha": 0.0}, {"alpha": 1.0, "is_clip": 0.5}, {"temperature": 2.0, "is_clip": 1e3}], False),
    ("sdpo", on_sampled.sdpo, [{"distillation_weight": 0.0}, {"distillation_weight": 0.4, "is_clip": 0.7}], False),
]  # fmt: skip
RUNS = [(name, oracle, config, smooth) for name, oracle, configs, smooth in LOSSES for config in [{}, *configs]]
TAILS: list[Config] = [{"k": k, "kl_type": kl} for k in (1, 2, 5, 64) for kl in ("forward", "reverse")]


def holding(oracle: Any, outputs: Tensors) -> Oracle:
    """Return the oracle whose constant factors stay those of ``outputs`` when it is moved: its differences are gradients."""
    return partial(oracle, held=arrays(outputs))


@pytest.mark.parametrize("counts", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("sample_mask", MASKS)
@pytest.mark.parametrize(("name", "oracle", "config", "smooth"), RUNS)
def test_value_and_gradient(
    name: str, oracle: Any, config: Config, smooth: bool, sample_mask: str | None, counts: bool
) -> None:
    batch, outputs = extended_case(17, rows=4, sample_mask=sample_mask, counts=counts, width=4, vocabulary=4)
    oracle = oracle if smooth else holding(oracle, outputs)
    assert_agrees(name, oracle, config, batch, outputs, gradient=sample_mask == "floats" and not counts)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "oracle"), [(name, oracle) for name, oracle, _, _ in LOSSES])
def test_value_on_many_cases(name: str, oracle: Any, seed: int) -> None:
    batch, outputs = extended_case(100 + seed, rows=6, width=8, sample_mask="floats")
    assert_agrees(name, oracle, {}, batch, outputs, gradient=False)


@pytest.mark.parametrize("left_out", [("teacher_topk_logits", "teacher_topk_indices"), ("teacher_logits",)])
@pytest.mark.parametrize("config", [{"k": 2}, *({"k": 2, **kl} for kl in KLS)])
@pytest.mark.parametrize("name", ["topk_renorm", "zero_outside_topk"])
def test_both_forms_of_the_teacher(name: str, config: Config, left_out: tuple[str, ...]) -> None:
    batch, outputs = extended_case(21, sample_mask="floats", width=5, vocabulary=6)
    batch = {field: x for field, x in batch.items() if field not in left_out}
    assert_agrees(name, getattr(topk, name), config, batch, outputs)


@pytest.mark.parametrize("config", TAILS)
def test_tail_bucket(config: Config) -> None:
    batch, outputs = extended_case(23, sample_mask="floats", width=5)
    assert_agrees("tail_bucket", topk.tail_bucket, {**config, "temperature": 1.5}, batch, outputs)


@pytest.mark.parametrize("missing", ["prev_logprobs", "advantages", "generation_logprobs"])
@pytest.mark.parametrize(("name", "oracle"), [("minillm", on_sampled.minillm), ("iw_opd", on_sampled.iw_opd)])
def test_without_what_is_optional(name: str, oracle: Any, missing: str) -> None:
    batch, outputs = extended_case(25, sample_mask="floats")
    batch.pop(missing)
    assert_agrees(name, holding(oracle, outputs), {}, batch, outputs)


@pytest.mark.parametrize("sample_mask", [None, "floats"])
@pytest.mark.parametrize("other_vocabulary", [3, 7])
@pytest.mark.parametrize("config", [{}, {"crossentropy_weight": 0.4, "temperature": 2.0}])
def test_uld(config: Config, other_vocabulary: int, sample_mask: str | None) -> None:
    batch, outputs = extended_case(27, other_vocabulary=other_vocabulary, sample_mask=sample_mask, width=5)
    assert_agrees("uld", vocabularies.uld, config, batch, outputs)


@pytest.mark.parametrize("sample_mask", [None, "floats"])
@pytest.mark.parametrize("vocabulary_map", [None, MAP, [-1] * 5])
@pytest.mark.parametrize(
    "config", [{}, {"beta": 0.0}, {"beta": 0.8, "matched_weight": 0.3, "unmatched_weight": 2.0, "temperature": 2.0}]
)
def test_hybrid_uld(config: Config, vocabulary_map: list[int] | None, sample_mask: str | None) -> None:
    batch, outputs = extended_case(29, other_vocabulary=7, sample_mask=sample_mask, width=5)
    config = {**config, "vocabulary_map": vocabulary_map}
    assert_agrees("hybrid_uld", vocabularies.hybrid_uld, config, batch, outputs)


def projection(U: int = 6, V: int = 5) -> torch.Tensor:
    """Tokens 0 and 3 of the student are 4 and 1 of the teacher, the others are shared out; 4 collides with 0."""
    M = torch.zeros(V, U, dtype=torch.float64)
    M[0, 4] = M[3, 1] = M[4, 4] = 1.0
    M[1, :3] = torch.tensor([0.2, 0.5, 0.3])
    M[2, [0, 3, 5]] = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    return M


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sample_mask", MASKS)
@pytest.mark.parametrize("projected", [False, True], ids=["identity", "projection"])
@pytest.mark.parametrize("name", ["xtoken_pkl", "xtoken_gold"])
def test_cross_tokenizer(name: str, projected: bool, sample_mask: str | None, seed: int) -> None:
    batch, outputs = chunked_case(seed, U=6 if projected or name == "xtoken_gold" else 5, sample_mask=sample_mask)
    config: Config = {"temperature": 1.5}
    if projected:
        config["projection"] = projection()
    if name == "xtoken_gold":
        config["pad_rest"] = True

    def oracle(batch: Any, outputs: Any, *, pad_rest: bool = True, **config: Any) -> float:
        if projected:
            config["projection"] = config["projection"].numpy()
        value: float = getattr(vocabularies, name)(batch, outputs, **config)
        return value

    batch["global_valid_chunks"] = torch.tensor(4.0, dtype=torch.float64)
    assert_agrees(name, oracle, config, batch, outputs)
    del batch["global_valid_chunks"]
    assert_agrees(name, oracle, config, batch, outputs, gradient=False)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_pkl_on_the_highest_columns(k: int) -> None:
    batch, outputs = chunked_case(7, U=5)
    assert_agrees("xtoken_pkl", vocabularies.xtoken_pkl, {"k": k}, batch, outputs)
