"""The oracles of weighted and offset pairs against hand-worked numbers, neutral points, reductions and rules."""

import math
from typing import Any

import numpy as np
import pytest

from .preference import dpo
from .preference_absolute import sppo_hard
from .preference_pairs import cdpo
from .preference_weighted import (
    alignment,
    beta_dpo,
    beta_dpo_state,
    chi_po,
    rpo_scale,
    sequential_kl,
    sppo_soft,
    tdpo1,
    tdpo2,
    wpo,
)
from .shared_rules import soiled
from .test_oracles import LOG2, NAN, Data, Oracle, arr, gathered, near, random_tokens
from .test_oracles_more import SP1, SP2, at_reference, defaults, log_ratios, permuted

LOG3 = math.log(3.0)


def distributions(*rows: list[list[float]], ids: list[list[int]]) -> tuple[Data, Data]:
    """Rows of trained tokens with these probabilities of the vocabulary; the logits are shifted by 3."""
    p = np.array(rows, dtype=np.float64)
    count, tokens, vocab = p.shape
    logits = np.concatenate([np.log(p) + 3.0, np.full((count, 1, vocab), NAN)], axis=1)
    first = np.zeros((count, 1), dtype=np.int64)
    batch: Data = {
        "input_ids": np.concatenate([first, np.array(ids)], axis=1),
        "token_mask": np.ones((count, tokens + 1)),
    }
    return batch, {"logits": logits}


def random_weighted(seed: int) -> tuple[Data, Data]:
    batch, outputs = random_tokens(seed)
    rng = np.random.default_rng(seed)
    batch["rewards"] = rng.normal(size=4)
    batch["preference_probability"] = rng.random(4)
    batch["selection_mask"] = np.ones(4)
    batch["reference_logits"] = batch.pop("teacher_logits")
    lp = np.log(np.exp(batch["reference_logits"]) / np.exp(batch["reference_logits"]).sum(-1, keepdims=True))
    taken = np.take_along_axis(lp[:, :-1], batch["input_ids"][:, 1:, None], -1)[..., 0]
    batch["reference_policy_logprobs"] = np.concatenate([np.full((4, 1), NAN), taken], axis=1)
    return batch, outputs


def test_wpo_by_hand() -> None:
    # p = (3/4, 1/4): sum of squares 5/8. Chosen takes 3/4, rejected 1/4: weights 6/5 and 2/5.
    batch, outputs = distributions([[0.75, 0.25]], [[0.75, 0.25]], ids=[[0], [1]])
    batch["reference_policy_logprobs"] = arr([NAN, math.log(0.75) - 2], [NAN, math.log(0.25)])
    assert alignment(batch, outputs, 0) == near(math.log(1.2))
    assert wpo(batch, outputs, beta=0.5) == near(0.48 * (SP1 - 1))
    assert wpo(batch, outputs, beta=0.5, label_smoothing=0.25) == near(0.48 * (SP1 - 0.75))
    # Mean log-probs log(3/4) and log(1/4).
    assert wpo(batch, outputs, beta=0.5, weighting="clamped") == near(0.1875 * (SP1 - 1))
    with pytest.raises(ValueError, match="weighting"):
        wpo(batch, outputs, weighting="detached")


def test_wpo_averages_over_trained_tokens_by_hand() -> None:
    # Chosen: 6/5 and 2/5 and an untrained token; their geometric mean; rejected uniform: 1.
    even = [0.5, 0.5]
    batch, outputs = distributions([[0.75, 0.25]] * 3, [even] * 3, ids=[[0, 1, 1], [0, 1, 0]])
    batch["token_mask"][0, 3] = 0.0
    batch["reference_policy_logprobs"] = np.zeros((2, 4))
    unweighted = dpo(batch, outputs)
    assert wpo(batch, outputs) == near(math.sqrt(0.48) * unweighted)
    assert wpo(batch, outputs, weighting="clamped") == near(math.sqrt(0.1875) * 0.5 * unweighted)
    # A row without a trained token weighs 1.
    batch["token_mask"][0] = 0.0
    assert wpo(batch, outputs) == near(dpo(batch, outputs))


def test_wpo_laws() -> None:
    batch, outputs = random_weighted(50)
    outputs["logits"][:] = 2.5  # uniform: every weight is 1
    assert wpo(batch, outputs, label_smoothing=0.2) == near(cdpo(batch, outputs, label_smoothing=0.2))
    assert wpo(batch, outputs, weighting="clamped") == near(dpo(batch, outputs) / 25)
    # A peaked distribution at its own token exceeds no bound: (1/2, 1/4, 1/4) takes 1/2 over 3/8.
    batch, outputs = distributions([[0.5, 0.25, 0.25]], [[0.5, 0.25, 0.25]], ids=[[0], [0]])
    batch["reference_policy_logprobs"] = np.full((2, 2), -LOG2)
    assert wpo(batch, outputs) == near(16 / 9 * LOG2)


def test_tdpo_by_hand() -> None:
    # Reference (1/2, 1/2) both; policy (3/4, 1/4) chosen at id 0, (1/4, 3/4) rejected at id 0.
    batch, outputs = distributions([[0.75, 0.25]], [[0.25, 0.75]], ids=[[0], [0]])
    batch["reference_logits"] = np.full((2, 2, 2), -7.0)
    # D = log(3/2) - log(1/2) = log 3; K alike: log 2 - log 3 / 2 + .. = log(2 / sqrt 3) each.
    assert sequential_kl(batch, outputs, 0) == near(math.log(2 / math.sqrt(3)))
    assert tdpo1(batch, outputs, beta=1.0) == near(math.log(4 / 3))
    # The chosen row at the reference: D = -log(1/2) = log 2, K_l = log(2 / sqrt 3), K_w = 0: e^-x = (1/2)(2/sqrt 3).
    outputs["logits"][0] = 1.0
    assert tdpo1(batch, outputs, beta=1.0) == near(math.log1p(1 / math.sqrt(3)))
    assert tdpo2(batch, outputs, beta=1.0) == near(math.log1p(0.5 * math.sqrt(2 / math.sqrt(3))))
    assert tdpo2(batch, outputs, beta=1.0, alpha=2.0) == near(math.log1p(2 / 3))
    # The other way round: the chosen row's KL counts for the pair, D = -log 2.
    swapped, policy = permuted(batch, [1, 0]), permuted(outputs, [1, 0])
    assert tdpo1(swapped, policy, beta=1.0) == near(math.log1p(math.sqrt(3)))


def test_tdpo_laws() -> None:
    batch, outputs = random_weighted(51)
    assert tdpo2(batch, outputs, alpha=0.0) == near(dpo(batch, outputs))
    assert tdpo2(batch, outputs, alpha=1.0) == near(tdpo1(batch, outputs))
    same: Data = {"logits": batch["reference_logits"] + 5.0}
    assert tdpo1(batch, same) == near(LOG2)
    assert tdpo2(batch, same) == near(LOG2)
    # A token that the reference excludes adds nothing; one that the policy excludes as well neither.
    batch, outputs = distributions([[0.75, 0.25]], [[0.25, 0.75]], ids=[[0], [0]])
    batch["reference_logits"] = np.zeros((2, 2, 2))
    batch["reference_logits"][:, :, 1] = -np.inf
    assert sequential_kl(batch, outputs, 0) == near(math.log(4 / 3))
    outputs["logits"][0, :, 1] = -np.inf
    assert sequential_kl(batch, outputs, 0) == near(0.0)


def test_beta_dpo_by_hand() -> None:
    # D = 1, 3: mean 2; B = 0.5 (1 + 0.5 (2 - M0)).
    batch, outputs = log_ratios(1, 0, 3, 0)
    sp3 = math.log1p(math.exp(-3))
    assert beta_dpo(batch, outputs, beta=0.5, a=0.5) == near((SP1 - 1 + sp3) / 2)
    assert beta_dpo(batch, outputs, beta=0.5, a=0.5, gap_mean=2.0) == near(
        (math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-1.5))) / 2
    )
    # The floor of 1e-3.
    floor = (math.log1p(math.exp(-0.001)) + math.log1p(math.exp(-0.003))) / 2
    assert beta_dpo(batch, outputs, gap_mean=50.0) == near(floor)
    # M0 takes a tenth of the new mean.
    assert beta_dpo_state(batch, outputs) == near(0.2)
    assert beta_dpo_state(batch, outputs, ema=0.5, gap_mean=6.0) == near(4.0)
    # The second pair alone selected: B = 0.5 (1 + 3) = 2, softplus(-6), over one pair; M0 sees both.
    chosen = {**batch, "selection_mask": arr(1, 0, 1, 1)}
    assert beta_dpo(chosen, outputs, beta=0.5, a=1.0) == near(math.log1p(math.exp(-6)))
    assert beta_dpo_state(chosen, outputs) == near(0.2)
    # S_g = 8 rows are 4 pairs.
    assert beta_dpo({**chosen, "global_valid_seqs": np.array(8.0)}, outputs, beta=0.5, a=1.0) == near(
        math.log1p(math.exp(-6)) / 4
    )
    # Weights 2 and 1/2: the mean of D is still plain.
    heavy = {**batch, "sample_mask": arr(2, 3, 0.5, 1)}
    assert beta_dpo(heavy, outputs, beta=0.5, a=0.5) == near((2 * (SP1 - 1) + 0.5 * sp3) / 2.5)
    half = {**heavy, "selection_mask": arr(0.5, 1, 1, 1)}
    assert beta_dpo(half, outputs, beta=0.5, a=0.5) == near((SP1 - 1 + 0.5 * sp3) / 1.5)
    # An absent pair is in neither mean.
    absent = {**batch, "sample_mask": arr(1, 1, 1, 0)}
    assert beta_dpo(absent, outputs, beta=0.5, a=1.0) == near(SP1 - 1)
    assert beta_dpo_state(absent, outputs) == near(0.1)
    assert beta_dpo_state({**batch, "sample_mask": np.zeros(4)}, outputs, gap_mean=6.0) == 6.0
    for none in ("selection_mask", "sample_mask"):
        assert beta_dpo({**batch, none: np.zeros(4)}, outputs) == 0.0


def test_rpo_scale_and_sppo_soft_by_hand() -> None:
    batch, outputs = log_ratios(5, 0, 0, 5, rewards=(1, 3, 0.5, 0))
    assert rpo_scale(batch, outputs) == near((2 * (SP1 - 1) + 0.5 * SP1) / 2)
    # c = 2.5: (2 - 2.5)^2 + (1 + 2.5)^2; the rejected row's probability is not read.
    batch, outputs = log_ratios(2, 1)
    assert sppo_soft({**batch, "preference_probability": arr(0.75, NAN)}, outputs) == near(12.5)
    assert sppo_soft({**batch, "preference_probability": arr(0.25, NAN)}, outputs) == near(22.5)


def test_chi_po_by_hand() -> None:
    # u(log 2) - u(0) = 2 + log 2 - 1.
    assert chi_po(*log_ratios(LOG2, 0), beta=1.0) == near(math.log1p(math.exp(-1 - LOG2)))
    assert chi_po(*log_ratios(0, LOG2), beta=1 / (1 + LOG2)) == near(SP1)
    # h above the limit counts in full outside the exponential: e + 3 - 1.
    assert chi_po(*log_ratios(3, 0), beta=1 / (math.e + 2), log_ratio_limit=1.0) == near(SP1 - 1)
    # Clipped at 2 R on both sides.
    assert chi_po(*log_ratios(3, 0), beta=1.0, reward_limit=0.5) == near(SP1 - 1)
    assert chi_po(*log_ratios(0, 3), beta=1.0, reward_limit=1.0) == near(SP2)
    assert chi_po(*log_ratios(-1e5, 1e5)) == near(20.0 + math.log1p(math.exp(-20)))
    assert chi_po(*log_ratios(1e5, -1e5)) == near(math.log1p(math.exp(-20)))


def test_value_where_policy_is_reference() -> None:
    batch, outputs = at_reference(52)
    for oracle in (beta_dpo, chi_po):
        assert oracle(batch, outputs) == near(LOG2)
    assert beta_dpo(batch, outputs, gap_mean=-3.0) == near(LOG2)
    # Reward gaps of 0.75 and 1.5.
    assert rpo_scale(batch, outputs) == near(1.125 * LOG2)
    assert sppo_soft({**batch, "preference_probability": np.full(4, 0.5)}, outputs) == near(0.0)


def test_reductions() -> None:
    batch, outputs = random_weighted(53)
    assert beta_dpo(batch, outputs, a=0.0) == near(dpo(batch, outputs))
    del batch["selection_mask"]
    assert beta_dpo(batch, outputs, a=0.0) == near(dpo(batch, outputs))
    assert sppo_soft({**batch, "preference_probability": np.ones(4)}, outputs) == near(sppo_hard(batch, outputs))
    unit = {**batch, "rewards": np.array([0.0, 1.0, 3.0, 2.0])}
    assert rpo_scale(unit, outputs) == near(dpo(batch, outputs, beta=0.2))
    # No exponential left: dpo.
    assert chi_po(batch, outputs, log_ratio_limit=-900.0) == near(dpo(batch, outputs))
    with pytest.raises(ValueError, match="even"):
        wpo(permuted(batch, [0, 1, 2]), permuted(outputs, [0, 1, 2]))


ALL: list[tuple[Oracle, dict[str, Any]]] = [
    (wpo, {}),
    (wpo, {"weighting": "clamped", "label_smoothing": 0.1}),
    (tdpo1, {}),
    (tdpo2, {}),
    (beta_dpo, {"gap_mean": 0.3}),
    (rpo_scale, {}),
    (sppo_soft, {}),
    (chi_po, {}),
]


@pytest.mark.parametrize(("oracle", "config"), ALL)
def test_weighted_pair_losses_share_their_rules(oracle: Oracle, config: dict[str, Any]) -> None:
    batch, outputs = random_weighted(54)
    value = oracle(batch, outputs, **config)
    assert isinstance(value, float)
    assert oracle({k: v for k, v in batch.items() if k != "sample_mask"}, outputs, **config) == near(value)
    if oracle not in (wpo, tdpo1, tdpo2):
        assert oracle(batch, {"next_token_logprobs": gathered(batch, outputs)}, **config) == near(value)
    for rows in ([2, 3, 0, 1], [0, 1, 2, 3, 0, 1, 2, 3]):
        assert oracle(permuted(batch, rows), permuted(outputs, rows), **config) == near(value)
    assert oracle({**batch, "global_valid_seqs": np.array(16.0)}, outputs, **config) == near(value / 4)
    logits_only: Data = {"logits": outputs["logits"]}
    assert oracle(*soiled(batch, logits_only, absent_rows=2), **config) == near(value)
    assert oracle({**batch, "sample_mask": np.zeros(4)}, outputs, **config) == 0.0
    first = oracle(permuted(batch, [0, 1]), permuted(outputs, [0, 1]), **config)
    assert oracle({**batch, "sample_mask": arr(1, 1, 0, 1)}, outputs, **config) == near(first)
    shifted: Data = {"logits": outputs["logits"] + arr(1, -2, 30, 4)[:, None, None]}
    assert oracle(batch, shifted, **config) == near(value, 1e-11)


def test_default_settings() -> None:
    assert defaults(wpo) == {"beta": 0.1, "label_smoothing": 0.0, "weighting": "aligned"}
    assert defaults(tdpo1) == defaults(sppo_soft) == {"beta": 0.1}
    assert defaults(tdpo2) == {"beta": 0.1, "alpha": 0.5}
    assert defaults(beta_dpo) == {"beta": 0.1, "a": 0.6, "ema": 0.9, "gap_mean": 0.0}
    assert defaults(rpo_scale) == {"beta": 0.2}
    assert defaults(chi_po) == {"beta": 0.1, "log_ratio_limit": 20.0, "reward_limit": 10.0}
