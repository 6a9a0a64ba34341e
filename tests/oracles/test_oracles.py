"""The oracles against numbers worked out by hand, and against the catalogue's anchors and laws."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from .composite import adaptive, dynamic_weight, dynamic_weights, weighted_sum
from .contrastive import infonce, pairwise_contrastive
from .distillation import forward_kl, mixed_kl, reverse_kl
from .policy_gradient import grpo, kl_term, ppo_clip
from .preference import dpo
from .reward import bradley_terry
from .supervised import nll
from .value import value_mse

Data = dict[str, NDArray[Any]]
Oracle = Callable[..., float]
LOG2 = math.log(2.0)
NAN = math.nan


def near(value: float, abs_: float = 1e-12) -> Any:
    return pytest.approx(value, rel=1e-12, abs=abs_)


def arr(*rows: Any) -> NDArray[Any]:
    return np.array(rows, dtype=np.float64)


def random_tokens(seed: int, rows: int = 4, width: int = 6, vocab: int = 5) -> tuple[Data, Data]:
    """A batch that every token loss accepts, and outputs with logits."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((rows, width)) < 0.7).astype(np.float64)
    mask[:, -1] = 1.0
    batch: Data = {
        "input_ids": rng.integers(0, vocab, (rows, width)),
        "token_mask": mask,
        "sample_mask": np.ones(rows),
        "advantages": rng.normal(size=(rows, width)),
        "prev_logprobs": -rng.random((rows, width)) * 3,
        "reference_policy_logprobs": -rng.random((rows, width)) * 3,
        "returns": rng.normal(size=(rows, width)),
        "teacher_logits": rng.normal(size=(rows, width, vocab)),
    }
    return batch, {"logits": rng.normal(size=(rows, width, vocab)), "values": rng.normal(size=(rows, width))}


def gathered(batch: Data, outputs: Data) -> NDArray[Any]:
    """next_token_logprobs of the logits, a second way (vectorised)."""
    z = outputs["logits"][:, :-1]
    lp = z - np.log(np.exp(z).sum(-1, keepdims=True))
    picked: NDArray[Any] = np.take_along_axis(lp, batch["input_ids"][:, 1:, None], -1)[..., 0]
    return picked


# --- supervised -------------------------------------------------------------------------------------------------


def nll_case() -> tuple[Data, Data]:
    return (
        {"token_mask": arr([1, 1, 1], [0, 1, 0])},
        {"next_token_logprobs": arr([-1, -2], [-3, NAN])},
    )


def test_nll_by_hand() -> None:
    # Trained: row 0 tokens of 1 and 2, row 1 a token of 3. Mean 6/3; rows 1.5 and 3; sums 3 and 3; 6/(2*4).
    batch, outputs = nll_case()
    assert nll(batch, outputs) == near(2.0)
    assert nll(batch, outputs, aggregation="seq_mean_token_mean") == near(2.25)
    assert nll(batch, outputs, aggregation="seq_mean_token_sum") == near(3.0)
    assert nll(batch, outputs, aggregation="fixed", max_length=4) == near(0.75)


def test_nll_float_sample_mask_by_hand() -> None:
    # Row weights 1 and 1/2: (3 + 1.5)/2.5; (1.5 + 1.5)/1.5; (3 + 1.5)/1.5; 4.5/(1.5*4).
    batch, outputs = nll_case()
    batch["sample_mask"] = np.array([1.0, 0.5])
    assert nll(batch, outputs) == near(1.8)
    assert nll(batch, outputs, aggregation="seq_mean_token_mean") == near(2.0)
    assert nll(batch, outputs, aggregation="seq_mean_token_sum") == near(3.0)
    assert nll(batch, outputs, aggregation="fixed", max_length=4) == near(0.75)


def test_nll_global_counts_by_hand() -> None:
    # Sums 6 (tokens), 1.5 + 3 (row means), 3 + 3 (row sums); T_g = 12, S_g = 4.
    batch, outputs = nll_case()
    batch |= {"global_valid_toks": np.array(12.0), "global_valid_seqs": np.array(4.0)}
    assert nll(batch, outputs) == near(0.5)
    assert nll(batch, outputs, aggregation="seq_mean_token_mean") == near(1.125)
    assert nll(batch, outputs, aggregation="seq_mean_token_sum") == near(1.5)
    assert nll(batch, outputs, aggregation="fixed", max_length=4) == near(0.375)


def test_nll_counts_a_row_without_trained_tokens() -> None:
    # Rows: mean 1.5, and a present row of no trained token: 1.5 / 2.
    batch, outputs = nll_case()
    batch["token_mask"] = arr([1, 1, 1], [1, 0, 0])
    assert nll(batch, outputs, aggregation="seq_mean_token_mean") == near(0.75)


def test_nll_uniform_logits_is_log_vocab_and_shift_invariant() -> None:
    batch, outputs = random_tokens(0)
    assert nll(batch, {"logits": np.full((4, 6, 5), 3.0)}) == near(math.log(5.0))
    assert nll(batch, {"logits": outputs["logits"] + 1e3}) == pytest.approx(nll(batch, outputs), rel=1e-12)


def test_nll_minus_inf_logit_of_an_unchosen_token() -> None:
    # V = 3 with one impossible entry: the other two have probability 1/2 each.
    batch: Data = {"token_mask": arr([1, 1]), "input_ids": np.array([[0, 1]])}
    assert nll(batch, {"logits": arr([[7, 7, -np.inf], [NAN] * 3])}) == near(LOG2)


def test_bad_aggregation() -> None:
    batch, outputs = nll_case()
    with pytest.raises(ValueError, match="unknown aggregation"):
        nll(batch, outputs, aggregation="mean")
    with pytest.raises(ValueError, match="max_length"):
        nll(batch, outputs, aggregation="fixed")


# --- preference -------------------------------------------------------------------------------------------------


def dpo_case() -> tuple[Data, Data]:
    # h_w = (-1 - -2) + (-2 - -2) = 1; h_l = (-3 - -2) + (-1 - -2) = 0; two tokens each, so averages 1/2 and 0.
    ref = arr([NAN, -2, -2], [NAN, -2, -2])
    return (
        {"token_mask": np.ones((2, 3)), "reference_policy_logprobs": ref},
        {"next_token_logprobs": arr([-1, -2], [-3, -1])},
    )


def test_dpo_by_hand() -> None:
    # x = 0.5: log(1 + e^-0.5) = log 1.60653066 = 0.47407698. cDPO adds 0.1 * x. Averaged, x = 0.25:
    # log(1 + e^-0.25) = log 1.77880078 = 0.57593942.
    batch, outputs = dpo_case()
    assert dpo(batch, outputs, beta=0.5) == near(0.47407698418010669)
    assert dpo(batch, outputs, beta=0.5, label_smoothing=0.1) == near(0.52407698418010669)
    assert dpo(batch, outputs, beta=0.5, average_log_probs=True) == near(math.log(1.0 + math.exp(-0.25)))


def test_dpo_neutral_point_and_swap() -> None:
    batch, outputs = random_tokens(1)
    same: Data = {**batch, "reference_policy_logprobs": np.zeros((4, 6))}
    same["reference_policy_logprobs"][:, 1:] = gathered(batch, outputs)
    for smoothing in (0.0, 0.3):
        assert dpo(same, outputs, label_smoothing=smoothing) == near(LOG2)
    assert dpo(batch, outputs, beta=0.0) == near(LOG2)
    # dpo(x) - dpo(-x) = -x, x = beta * 1.
    one, out = dpo_case()
    flip = {k: v[::-1] for k, v in one.items()}
    flipped = {k: v[::-1] for k, v in out.items()}
    assert dpo(one, out, beta=0.5) - dpo(flip, flipped, beta=0.5) == near(-0.5)
    assert dpo(one, out, label_smoothing=0.5) == near(dpo(flip, flipped, label_smoothing=0.5))


def test_cdpo_minimum_is_the_binary_entropy() -> None:
    # At x = log((1-e)/e), here beta = log 9 with a log-ratio gap of 1 and e = 0.1.
    batch, outputs = dpo_case()
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert dpo(batch, outputs, beta=math.log(9.0), label_smoothing=0.1) == near(entropy)


def test_pair_weights_by_hand() -> None:
    # Gaps 1 and -2, weights min(1, 0.5) = 0.5 and min(1, 1) = 1; the third pair is absent and unread:
    # (0.5 softplus(-1) + softplus(2)) / 1.5; with S_g = 8 the divisor is 4.
    outputs: Data = {"rewards": np.array([1.0, 0.0, 0.0, 2.0, NAN, 0.0])}
    batch: Data = {"sample_mask": np.array([1.0, 0.5, 1.0, 1.0, 0.0, 1.0])}
    total = 0.5 * 0.31326168751822286 + 2.1269280110429727
    assert bradley_terry(batch, outputs) == near(total / 1.5)
    assert bradley_terry({**batch, "global_valid_seqs": np.array(8.0)}, outputs) == near(total / 4.0)
    # DPO with the same gaps and beta = 1 is the same number (bradley_terry = dpo with rho = beta h).
    rewards = outputs["rewards"]
    tokens: Data = {**batch, "token_mask": np.ones((6, 2)), "reference_policy_logprobs": np.zeros((6, 2))}
    assert dpo(tokens, {"next_token_logprobs": rewards[:, None] - 3.0}, beta=1.0) == near(total / 1.5)


def test_odd_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="even"):
        bradley_terry({}, {"rewards": np.zeros(3)})
    with pytest.raises(ValueError, match="even"):
        dpo({"token_mask": np.ones((3, 2))}, {})


# --- policy gradient --------------------------------------------------------------------------------------------


def ppo_case() -> tuple[Data, Data]:
    # Ratios 1.5, 0.5, 0.5, 5 with advantages 1, 1, -1, -1.
    ratio = np.log(arr([1.5, 0.5, 0.5, 5.0]))
    return (
        {
            "token_mask": np.ones((1, 5)),
            "prev_logprobs": np.full((1, 5), -3.0),
            "advantages": arr([NAN, 1, 1, -1, -1]),
            "reference_policy_logprobs": np.concatenate([arr([NAN]), ratio - 3.0 - LOG2], axis=1),
        },
        {"next_token_logprobs": ratio - 3.0},
    )


def test_ppo_by_hand() -> None:
    # Terms: max(-1.5, -1.2) = -1.2; max(-0.5, -0.8) = -0.5; max(0.5, 0.8) = 0.8; max(5, 1.2) = 5: sum 4.1.
    # Dual clip at 3 makes the last one 3: sum 2.1. Upper clip 0.28 makes the first -1.28: sum 4.02.
    batch, outputs = ppo_case()
    assert ppo_clip(batch, outputs) == near(4.1 / 4)
    assert ppo_clip(batch, outputs, ratio_clip_c=3.0) == near(2.1 / 4)
    assert ppo_clip(batch, outputs, ratio_clip_max=0.28) == near(4.02 / 4)
    assert ppo_clip(batch, outputs, aggregation="seq_mean_token_sum") == near(4.1)
    # No clipping at all: -sum A r = -(1.5 + 0.5 - 0.5 - 5) = 3.5.
    assert ppo_clip(batch, outputs, ratio_clip_min=9, ratio_clip_max=9) == near(3.5 / 4)


def test_grpo_by_hand() -> None:
    # d = log 2 at every token: k1 = abs = 0.69314718, k2 = d^2/2 = 0.24022651, k3 = 1/2 - 1 + d = 0.19314718.
    batch, outputs = ppo_case()
    for kl_type, kl in (("k1", LOG2), ("abs", LOG2), ("k2", 0.2402265069591007), ("k3", 0.19314718055994531)):
        assert grpo(batch, outputs, kl_type=kl_type) == near(4.1 / 4 + 0.04 * kl)
    del batch["reference_policy_logprobs"]
    assert grpo(batch, outputs, reference_policy_kl_penalty=0.0) == near(4.1 / 4)
    with pytest.raises(KeyError):
        grpo(batch, outputs)


def test_kl_terms_at_negative_d() -> None:
    # d = -log 2: k3 = 2 - 1 - log 2 = 0.30685282.
    assert kl_term(-LOG2, "k3") == near(0.30685281944005469)
    assert kl_term(-LOG2, "k1") == near(-LOG2)
    assert kl_term(-LOG2, "abs") == near(LOG2)
    assert [kl_term(0.0, kind) for kind in ("k1", "k2", "k3", "abs")] == [0.0] * 4
    with pytest.raises(ValueError, match="unknown kl_type"):
        kl_term(0.0, "k4")


def test_policy_gradient_neutral_points() -> None:
    batch, outputs = random_tokens(2)
    batch["prev_logprobs"][:, 1:] = gathered(batch, outputs)
    batch["reference_policy_logprobs"] = batch["prev_logprobs"]
    weight = batch["token_mask"][:, 1:]
    mean_advantage = (weight * batch["advantages"][:, 1:]).sum() / weight.sum()
    assert ppo_clip(batch, outputs) == near(-mean_advantage)
    per_row = (weight * batch["advantages"][:, 1:]).sum(1) / weight.sum(1)
    assert grpo(batch, outputs) == near(-per_row.mean())
    batch["advantages"] = np.zeros((4, 6))
    assert grpo(batch, outputs) == near(0.0)


def test_ppo_is_homogeneous_in_the_advantage() -> None:
    batch, outputs = random_tokens(3)
    scaled = {**batch, "advantages": 2.5 * batch["advantages"]}
    assert ppo_clip(scaled, outputs, ratio_clip_c=3.0) == near(2.5 * ppo_clip(batch, outputs, ratio_clip_c=3.0))


# --- value ------------------------------------------------------------------------------------------------------


def test_value_mse_by_hand() -> None:
    # Errors 1 and -2 at tokens 1 and 2 (token 0 is meaningless): 1/2 (1 + 4) / 2 = 1.25; scale 2 doubles it.
    batch: Data = {"token_mask": np.ones((1, 3)), "returns": arr([NAN, 0, 4])}
    outputs: Data = {"values": arr([NAN, 1, 2])}
    assert value_mse(batch, outputs) == near(1.25)
    assert value_mse(batch, outputs, scale=2.0) == near(2.5)
    assert value_mse({**batch, "token_mask": arr([1, 0, 1])}, outputs) == near(2.0)
    assert value_mse(batch, {"values": batch["returns"]}) == 0.0
    assert value_mse(
        {"token_mask": batch["token_mask"], "returns": batch["returns"] + 7.0}, {"values": arr([0, 8, 9])}
    ) == near(1.25)


# --- reward -----------------------------------------------------------------------------------------------------


def test_bradley_terry_by_hand() -> None:
    # softplus(-1) = log(1 + 0.36787944) = 0.31326169; softplus(2) = 2 + log(1 + 0.13533528) = 2.12692801.
    outputs: Data = {"rewards": np.array([1.0, 0.0, 0.0, 2.0])}
    assert bradley_terry({}, outputs) == near((0.31326168751822286 + 2.1269280110429727) / 2)
    assert bradley_terry({}, {"rewards": outputs["rewards"] + 9.0}) == near(bradley_terry({}, outputs))
    assert bradley_terry({}, {"rewards": np.full(4, 3.0)}) == near(LOG2)
    assert bradley_terry({}, {"rewards": np.array([-1e4, 1e4])}) == near(2e4)


# --- distillation -----------------------------------------------------------------------------------------------

KLS: list[Oracle] = [forward_kl, reverse_kl, mixed_kl]


def kl_case() -> tuple[Data, Data]:
    # Teacher (1/2, 1/2), student (1/4, 3/4); the last position speaks of nothing.
    return (
        {"token_mask": arr([0, 1]), "teacher_logits": arr([[1, 1], [NAN, NAN]])},
        {"logits": arr([[0, math.log(3.0)], [NAN, NAN]])},
    )


def test_kl_by_hand() -> None:
    # Forward: 1/2 log 2 + 1/2 log(2/3) = 1/2 log(4/3) = 0.14384104.
    # Reverse: 1/4 log(1/2) + 3/4 log(3/2) = -0.17328680 + 0.30409883 = 0.13081204. Mixed at 1/2: their mean.
    batch, outputs = kl_case()
    assert forward_kl(batch, outputs) == near(0.14384103622589045)
    assert reverse_kl(batch, outputs) == near(0.13081203594113695)
    assert mixed_kl(batch, outputs) == near(0.1373265360835137)
    assert mixed_kl(batch, outputs, mixed_kl_weight=0.25) == near(
        0.25 * 0.14384103622589045 + 0.75 * 0.13081203594113695
    )
    # Logits (0, 2 log 3) at temperature 2 are the same student; there is no T^2 factor.
    doubled: Data = {"logits": 2.0 * outputs["logits"]}
    assert forward_kl(batch, doubled, temperature=2.0) == near(0.14384103622589045)


def test_kl_zero_probabilities() -> None:
    # Teacher (1, 0), student (1/4, 3/4): forward log 4, reverse inf.
    batch, outputs = kl_case()
    batch["teacher_logits"] = arr([[0, -np.inf], [0, 0]])
    assert forward_kl(batch, outputs) == near(math.log(4.0))
    assert reverse_kl(batch, outputs) == math.inf
    assert mixed_kl(batch, outputs, mixed_kl_weight=1.0) == near(math.log(4.0))
    assert reverse_kl(batch, {"logits": batch["teacher_logits"]}) == 0.0


@pytest.mark.parametrize("oracle", KLS)
def test_kl_laws(oracle: Oracle) -> None:
    batch, outputs = random_tokens(4)
    assert oracle(batch, {"logits": batch["teacher_logits"] + 3.0}) == near(0.0)
    value = oracle(batch, outputs, temperature=1.7)
    assert value > 0.0
    order = np.argsort(-batch["teacher_logits"], axis=-1)
    full: Data = {k: v for k, v in batch.items() if k != "teacher_logits"}
    full["teacher_topk_indices"] = order
    full["teacher_topk_logits"] = np.take_along_axis(batch["teacher_logits"], order, -1)
    assert oracle(full, outputs, temperature=1.7) == near(value)
    permuted: Data = {**batch, "teacher_logits": batch["teacher_logits"][..., ::-1]}
    assert oracle(permuted, {"logits": outputs["logits"][..., ::-1]}, temperature=1.7) == near(value)


def test_topk_by_hand() -> None:
    # Teacher keeps entries 2 and 0 with equal logits; the student has (1/4, 3/4) there after renormalisation,
    # whatever entry 1 is: 1/2 log(4/3) again.
    batch: Data = {
        "token_mask": arr([0, 1]),
        "teacher_topk_logits": arr([[5, 5], [0, 0]]),
        "teacher_topk_indices": np.array([[[2, 0], [0, 1]]]),
    }
    outputs: Data = {"logits": arr([[math.log(3.0), 8.0, 0.0], [0, 0, 0]])}
    assert forward_kl(batch, outputs) == near(0.14384103622589045)


# --- contrastive ------------------------------------------------------------------------------------------------


def contrastive_case() -> tuple[Data, Data]:
    # Cosines with row 0: row 1 gives 1, row 2 gives 0, row 3 gives -1.
    return (
        {"positive_pairs": np.array([[0, 1]]), "negative_pairs": np.array([[0, 2]])},
        {"embeddings": arr([1, 0], [2, 0], [0, 3], [-1, 0])},
    )


def test_pairwise_contrastive_by_hand() -> None:
    # softplus((0 - 1)/0.5) = log(1 + e^-2) = 0.12692801.
    batch, outputs = contrastive_case()
    assert pairwise_contrastive(batch, outputs, temperature=0.5) == near(0.1269280110429726)
    # Row 2 at weight 1/2 is touched by the first two terms; the third touches row 4, which is absent:
    # 0.5 softplus(-2) + 0.5 softplus(2) = 0.5 (0.12692801 + 2.12692801), over weights of 1.
    batch["positive_pairs"] = np.array([[0, 1], [0, 2], [4, 1]])
    batch["negative_pairs"] = np.array([[0, 2], [0, 1], [0, 2]])
    batch["sample_mask"] = np.array([1.0, 1.0, 0.5, 1.0, 0.0])
    outputs["embeddings"] = arr([1, 0], [2, 0], [0, 3], [-1, 0], [NAN, NAN])
    assert pairwise_contrastive(batch, outputs, temperature=0.5) == near(1.1269280110429727)


def test_infonce_by_hand() -> None:
    # Scores 1, 0, -1 over 0.5: -2 + log(e^2 + 1 + e^-2) = log(1 + e^-2 + e^-4) = log 1.15365092 = 0.14293163.
    batch, outputs = contrastive_case()
    batch["negative_pairs"] = np.array([[0, 2], [1, 3], [0, 3]])
    assert infonce(batch, outputs, temperature=0.5) == near(math.log(1.0 + math.exp(-2.0) + math.exp(-4.0)))
    assert infonce(batch, outputs, temperature=0.5) == near(0.142931628499899, 1e-12)
    # Row 2 absent: log(1 + e^-4). Row 3 at weight 0.3 still counts in full as a negative.
    batch["sample_mask"] = np.array([1.0, 1.0, 0.0, 0.3])
    assert infonce(batch, outputs, temperature=0.5) == near(math.log(1.0 + math.exp(-4.0)))
    batch["positive_pairs"] = np.array([[0, 3], [1, 0], [1, 1]])
    batch["negative_pairs"] = np.array([[0, 2]])
    batch["sample_mask"] = np.array([0.3, 1.0, 1.0, 1.0])
    # Weights 0.3, 0.3, 1. Anchor 0: positive at -1, negative at 0, softplus(2) = 2.12692801. Anchor 1 has no
    # negatives: 0 and 0.
    assert infonce(batch, outputs, temperature=0.5) == near(0.3 * 2.1269280110429727 / 1.6)


def test_contrastive_anchors() -> None:
    # Equal similarities: log 2, and log(1 + K) for K negatives; one negative: the two losses agree.
    flat: Data = {"embeddings": np.ones((4, 3))}
    batch: Data = {"positive_pairs": np.array([[0, 1]]), "negative_pairs": np.array([[0, 2]])}
    assert pairwise_contrastive(batch, flat) == near(LOG2)
    some: Data = {"embeddings": np.random.default_rng(5).normal(size=(4, 3))}
    assert infonce(batch, some) == near(pairwise_contrastive(batch, some))
    assert infonce({**batch, "negative_pairs": np.array([[0, 2], [0, 3]])}, flat) == near(math.log(3.0))
    # A zero vector has similarity 0, not NaN.
    assert pairwise_contrastive(batch, {"embeddings": np.zeros((4, 3))}) == near(LOG2)


# --- all batch losses -------------------------------------------------------------------------------------------

TOKEN_LOSSES: list[tuple[Oracle, dict[str, Any]]] = [
    (nll, {}),
    (nll, {"aggregation": "seq_mean_token_mean"}),
    (nll, {"aggregation": "fixed", "max_length": 7}),
    (dpo, {}),
    (dpo, {"average_log_probs": True, "label_smoothing": 0.2}),
    (ppo_clip, {"ratio_clip_c": 3.0}),
    (grpo, {}),
    (value_mse, {}),
    (forward_kl, {}),
    (reverse_kl, {}),
    (mixed_kl, {}),
]


@pytest.mark.parametrize(("oracle", "config"), TOKEN_LOSSES)
def test_token_losses_share_their_rules(oracle: Oracle, config: dict[str, Any]) -> None:
    batch, outputs = random_tokens(6)
    value = oracle(batch, outputs, **config)
    assert isinstance(value, float)
    assert math.isfinite(value)
    # Logits or their gathered log-probs: one value.
    if oracle in (nll, dpo, ppo_clip, grpo):
        lp: Data = {"next_token_logprobs": gathered(batch, outputs)}
        assert oracle(batch, lp, **config) == near(value)
    # sample_mask is optional; a batch twice over is the same mean.
    assert oracle({k: v for k, v in batch.items() if k != "sample_mask"}, outputs, **config) == near(value)
    twice = ({k: np.concatenate([v, v]) for k, v in d.items()} for d in (batch, outputs))
    assert oracle(*twice, **config) == near(value)
    # With the global counts, the two halves add up to the whole.
    counts: Data = {
        "global_valid_toks": np.array(batch["token_mask"][:, 1:].sum()),
        "global_valid_seqs": np.array(4.0),
    }
    halves = [
        oracle({k: v[part] for k, v in batch.items()} | counts, {k: v[part] for k, v in outputs.items()}, **config)
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert sum(halves) == near(value)
    # NaN wherever nothing is trained changes nothing; neither does an absent pair of rows full of NaN.
    dirty, dirty_out = ({k: v.copy() for k, v in d.items()} for d in (batch, outputs))
    for b in range(4):
        for t in range(6):
            if t == 0 or dirty["token_mask"][b, t] == 0.0:
                for key in ("advantages", "prev_logprobs", "reference_policy_logprobs", "returns"):
                    dirty[key][b, t] = NAN
                dirty_out["values"][b, t] = NAN
                dirty["teacher_logits"][b, t - 1] = NAN
                dirty_out["logits"][b, t - 1] = NAN
    dirty = {k: np.concatenate([v, np.full_like(v[:2], -7 if k == "input_ids" else NAN)]) for k, v in dirty.items()}
    dirty_out = {k: np.concatenate([v, np.full_like(v[:2], NAN)]) for k, v in dirty_out.items()}
    dirty["sample_mask"][4:] = 0.0
    dirty["token_mask"][4:] = 1.0
    assert oracle(dirty, dirty_out, **config) == near(value)
    # Nothing left: exactly 0.
    assert oracle({**batch, "sample_mask": np.zeros(4)}, outputs, **config) == 0.0


def test_empty_pair_losses_are_zero() -> None:
    gone: Data = {"sample_mask": np.zeros(4)}
    assert bradley_terry(gone, {"rewards": np.full(4, NAN)}) == 0.0
    batch, outputs = contrastive_case()
    assert pairwise_contrastive({**batch, **gone}, outputs) == 0.0
    assert infonce({**batch, **gone}, outputs) == 0.0


# --- composites -------------------------------------------------------------------------------------------------


def test_weighted_sum_by_hand() -> None:
    # 0.8 * 2 + 0.2 * 5 = 2.6; a weight of 0 removes even a NaN; lengths must match.
    assert weighted_sum([2.0, 5.0], [0.8, 0.2]) == near(2.6)
    assert weighted_sum([2.0, NAN], [1.0, 0.0]) == 2.0
    with pytest.raises(ValueError, match="zip"):
        weighted_sum([1.0], [1.0, 2.0])


def test_dynamic_weight_by_hand() -> None:
    # Losses 4, 2, 1 at rate 0.1: adj = 0.1 twice, weights 1.1, 1 - 0.1 + 0.1, 0.9; 4.4 + 2 + 0.9 = 7.3.
    assert dynamic_weights([4.0, 2.0, 1.0], [1.0] * 3, adaptation_rate=0.1) == near_list([1.1, 1.0, 0.9])
    for mode in ("literal", "robust"):
        assert dynamic_weight([4.0, 2.0, 1.0], [1.0] * 3, adaptation_rate=0.1, mode=mode) == near(7.3)
    # Losses 300, 1 at rate 0.01: adj = 2.99, weights 3.99 and -1.99; robust: 3.99 and 0, rescaled to 2 and 0.
    assert dynamic_weights([300.0, 1.0], [1.0, 1.0]) == near_list([3.99, -1.99])
    assert dynamic_weights([300.0, 1.0], [1.0, 1.0], mode="robust") == near_list([2.0, 0.0])
    # L_2 = 0: the literal pattern divides by it; robust gives all weight to L_1.
    with pytest.raises(ZeroDivisionError):
        dynamic_weight([1.0, 0.0], [1.0, 1.0])
    assert dynamic_weight([1.0, 0.0], [1.0, 1.0], adaptation_rate=0.1, mode="robust") == near(2.0)


def near_list(values: list[float]) -> Any:
    return pytest.approx(values, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("mode", ["literal", "robust"])
def test_dynamic_weight_laws(mode: str) -> None:
    losses, base = [0.3, 2.0, 1.1], [1.0, 0.5, 2.0]
    weights = dynamic_weights(losses, base, adaptation_rate=0.2, mode=mode)
    assert sum(weights) == near(3.5)
    assert dynamic_weights([3.0 * x for x in losses], base, adaptation_rate=0.2, mode=mode) == near_list(weights)
    assert dynamic_weights([0.7] * 3, base, adaptation_rate=0.2, mode=mode) == near_list(base)
    assert dynamic_weight(losses, base, adaptation_rate=0.0, mode=mode) == near(weighted_sum(losses, base))


def test_adaptive_by_hand() -> None:
    # Base 2, target 1, rate 0.1: 2 + 0.1 = 2.1; scaled 2 * 1.1 = 2.2; scale held at 1.05: 2.1.
    assert adaptive(2.0) == near(2.1)
    assert adaptive(2.0, mode="scale") == near(2.2)
    assert adaptive(2.0, mode="scale", upper=1.05) == near(2.1)
    assert adaptive(0.5, mode="scale", adaptation_rate=1.0, lower=0.9) == near(0.45)
    for mode in ("literal", "scale"):
        assert adaptive(3.0, target_loss=3.0, mode=mode) == 3.0
    with pytest.raises(ZeroDivisionError):
        adaptive(1.0, target_loss=0.0)
