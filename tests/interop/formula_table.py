"""What libraries that cannot be run here compute, by reading their formulas: data for the second part of the library table.

Nothing here was compared number by number. A test checks that every config named is one the loss accepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

READ_AT: Final[dict[str, str]] = {
    "NeMo RL": "revision 7ea279ab of 2026-08-22",
    "Open-Instruct": "revision e6c3044a of 2026-08-20",
    "NeMo-Aligner": "its DPO and RPO losses",
    "TRL, older": "revision f2cd5771 of 2026-07-24",
    "Liger, kernels": "release 0.8.5, whose cross entropies need Triton",
    "verl, older": "revision b178a3cd of 2026-01-29",
    "torchtune, recipes": "revision bd2a0fc7 of 2026-04-23, not part of the released package",
    "DistiLLM": "revision d47e77ff",
    "optax": "revision 2edbcbe2 of 2026-08-07",
    "papers' code": "TDPO 2a736ecb, beta-DPO 16290473, RRHF e1a2b61f",
}
"""Where each was read."""


@dataclass(frozen=True)
class Reading:
    """One formula read: our loss, their name for it, and the config of ours that gives their number.

    Attributes:
        loss: registered name of ours.
        library: a key of ``READ_AT``.
        counterpart: what computes it there.
        option: settings of ours that reproduce it, their defaults included where they differ from ours.
        difference: in what it differs all the same.
        note: what else to know.
    """

    loss: str
    library: str
    counterpart: str
    option: Mapping[str, Any] = field(default_factory=dict)
    difference: str = ""
    note: str = ""


NeMo = partial(Reading, library="NeMo RL")
Instruct = partial(Reading, library="Open-Instruct")
Aligner = partial(Reading, library="NeMo-Aligner")
Trl = partial(Reading, library="TRL, older")
Kernel = partial(Reading, library="Liger, kernels")
Tune = partial(Reading, library="torchtune, recipes")
Distil = partial(Reading, library="DistiLLM")
Papers = partial(Reading, library="papers' code")
CLAMPS: Final = {"input_clamp": 20.0, "output_clamp": 10.0}
SCORE: Final = {"kl_gradient": "score_function", **CLAMPS}

NEMO_RL: Final = (
    NeMo("nll", counterpart="NLLLossFn"),
    NeMo("dpo", counterpart="DPOLossFn", option={"beta": 0.05, "rolled_reference": True}),
    NeMo(
        "rpo_nll",
        counterpart="DPOLossFn, sft_loss_weight > 0",
        option={"beta": 0.05, "nll_average": "sum", "rolled_reference": True},
        note="alpha is sft_loss_weight",
    ),
    NeMo(
        "rpo_nll",
        counterpart="DPOLossFn, sft_loss_weight > 0, sft_average_log_probs=True",
        option={"beta": 0.05, "rolled_reference": True},
        note="alpha is sft_loss_weight",
    ),
    NeMo(
        "dpo_norm",
        counterpart="DPOLossFn, preference_average_log_probs=True",
        option={"beta": 0.05, "rolled_reference": True},
    ),
    NeMo("bradley_terry", counterpart="loss of the reward model"),
    NeMo("ppo_clip", counterpart="ClippedPGLossFn"),
    NeMo("dapo", counterpart="ClippedPGLossFn of the DAPO recipes", option={"ratio_clip_c": 10.0}),
    NeMo("reinforce", counterpart="ClippedPGLossFn, disable_ppo_ratio=True"),
    NeMo("on_policy", counterpart="ClippedPGLossFn, force_on_policy_ratio=True"),
    NeMo(
        "grpo",
        counterpart="ClippedPGLossFn, reference_policy_kl_penalty=0.01",
        option={
            "aggregation": "token_mean",
            "reference_policy_kl_penalty": 0.01,
            "kl_gradient": "score_function",
            "kl_input_clamp": 20.0,
            "kl_output_clamp": 10.0,
        },
        note="its advantages leave the answer itself out of mean and std",
    ),
    NeMo("gspo", counterpart="ClippedPGLossFn, sequence_level_importance_ratios=True"),
    NeMo(
        "seq_truncate",
        counterpart="ClippedPGLossFn, ratios of sequences with importance sampling correction",
        option={"ratio_level": "sequence", "aggregation": "seq_mean_token_mean", "is_max": 1e9},
        note="the weight is a sum over the answer, not a mean",
    ),
    NeMo("cispo", counterpart="ClippedPGLossFn, use_cispo=True"),
    NeMo("tis", counterpart="truncated importance sampling", option={"overflow": "zero"}, note="off by default"),
    NeMo("icepop", counterpart="icepop"),
    NeMo("seq_mask_tis", counterpart="seq-mask-tis", option={"is_min": 0.999, "is_max": 1.002}),
    NeMo("kl_k3", counterpart="KL penalty of type k3", option=SCORE),
    NeMo("kl_k2", counterpart="KL penalty of type k2", option=SCORE, note="no longer the gradient of a KL"),
    NeMo("kl_k1", counterpart="KL penalty of type k1", option=SCORE),
    NeMo(
        "kl_unbiased",
        counterpart="use_on_policy_kl_approximation=True",
        option=CLAMPS,
        note="give the log-probabilities of the generating policy as `prev_logprobs`",
    ),
    NeMo("vapo_nll", counterpart="positive_example_nll_weight", note="0 unless set; the count is of the microbatch"),
    NeMo(
        "value_mse", counterpart="MseValueLossFn", difference="the first token counts in its sum and not in its divisor"
    ),
    NeMo("topk_renorm", counterpart="DistillationLossFn", option={"kl_type": "mixed"}),
    NeMo("zero_outside_topk", counterpart="DistillationLossFn, zero_outside_topk=True", option={"kl_type": "mixed"}),
    NeMo("mixed_kl", counterpart='DistillationLossFn, kl_type="mixed", K = V'),
    NeMo("soft_ce", counterpart="DraftCrossEntropyLossFn"),
    NeMo("draft", counterpart="DraftLossWrapper", option={"ahead": 1}),
    NeMo(
        "xtoken_pkl",
        counterpart="CrossTokenizerDistillationLossFn",
        note="the teacher's columns are chosen per microbatch",
    ),
    NeMo("xtoken_gold", counterpart="CrossTokenizerDistillationLossFn, gold"),
    NeMo(
        "multi_teacher",
        counterpart="several teachers of the student's tokenizer, normalize_by_vocab=True",
        option={"vocabulary_sizes": [128256, 151936]},
        note="`vocabulary_sizes` are those of the teachers at hand",
    ),
    NeMo("dynamic_loss_scaling", counterpart="CrossTokenizerDistillationLossFn, dynamic_loss_scaling=True"),
    NeMo(
        "iw_opd",
        counterpart="on-policy distillation, advantages lp_T - lp_old",
        option={"gamma": 0.0},
        note="give lp_old as `generation_logprobs`; its IcePop weights are left out",
    ),
)

OTHERS: Final = (
    Instruct("dpo", counterpart='loss_type "dpo"', option={"beta": 5.0}),
    Instruct("dpo_norm", counterpart='loss_type "dpo_norm"', option={"beta": 5.0}),
    Instruct("cdpo", counterpart="label_smoothing", option={"beta": 5.0}),
    Instruct(
        "simpo",
        counterpart='loss_type "simpo", gamma_beta_ratio=0.3',
        option={"beta": 5.0, "gamma": 1.5},
        note="gamma is beta times the ratio",
    ),
    Instruct(
        "wpo",
        counterpart='loss_type "wpo"',
        option={"beta": 5.0, "weighting": "clamped"},
        difference="its mean over tokens broadcasts rows against tokens: a sum for one row, mixed up for more",
    ),
    Instruct("ppo_clip", counterpart="clip_lower, clip_higher", option={"ratio_clip_max": 0.272}),
    Instruct("cispo", counterpart="cispo", option={"weight_bound": "upper", "ratio_clip_max": 0.272}),
    Instruct("kl_k3", counterpart="kl_estimator 2", option={"input_clamp": 40.0}),
    Instruct("kl_unbiased", counterpart="kl_estimator 3", option={"kl_type": "k1", "input_clamp": 40.0}),
    Instruct("tis", counterpart="truncated importance sampling, on by default"),
    Instruct("off_policy_mask", counterpart="off-policy sequence masking"),
    Aligner("dpo", counterpart="dpo"),
    Aligner("ipo", counterpart="ipo", note="sums of log-ratios, not means"),
    Aligner("rpo_sq", counterpart="rpo_sq_distance"),
    Aligner("rpo_fwd_kl", counterpart="rpo_fwd_kl"),
    Aligner("rpo_bwd_kl", counterpart="rpo_bwd_kl"),
    Aligner("rpo_scale", counterpart="scale", difference="multiplies the gap of a pair by the mean loss of the batch"),
    Trl("xpo", counterpart="XPOTrainer"),
    Trl("nash_md", counterpart="NashMDTrainer"),
    Trl("bco", counterpart="BCOTrainer", note="the running mean is updated before it is used, in training alone"),
    Trl(
        "minillm",
        counterpart="MiniLLMTrainer",
        option={"gamma": 0.0, "padding": "counted", "detach_reward": False},
        note="its mask is of ids that are never ignored: padding counts, and so does a row in which nothing is trained; run "
        "once by hand, value and gradient were those of releases 0.26.2 and 1.9.2 for gamma of 0, 0.6 and 1",
    ),
    Trl("bnpo", counterpart="PPOTrainer", option={"empty": "nan"}, note="its policy term, cliprange 0.2"),
    Trl(
        "luspo",
        counterpart='GRPOTrainer, loss_type="luspo", beta=0.04',
        option={"reference_policy_kl_penalty": 0.04, "padding": "counted"},
    ),
    Trl(
        "vespo",
        counterpart='GRPOTrainer, loss_type="vespo", vllm_importance_sampling_mode="token_truncate"',
        option={"importance_sampling": "token_truncate"},
    ),
    Trl(
        "vespo",
        counterpart='GRPOTrainer, loss_type="vespo", vllm_importance_sampling_mode="token_mask"',
        option={"importance_sampling": "token_mask"},
    ),
    Trl(
        "hybrid_uld",
        counterpart="GOLDTrainer, use_extended_uld=True",
        option={"merge": "observed"},
        note="the alignment of both texts is the caller's, as chunk ids",
    ),
    Kernel("label_smoothed_ce", counterpart="LigerCrossEntropyLoss(label_smoothing=0.1)"),
    Kernel(
        "label_smoothed_ce",
        counterpart="LigerCrossEntropyLoss(softcap=30)",
        option={"label_smoothing": 0.0, "softcap": 30.0},
    ),
    Kernel("z_loss", counterpart="LigerCrossEntropyLoss(lse_square_scale=1e-4), what that adds"),
    Kernel(
        "weighted_nll",
        counterpart="LigerCrossEntropyLoss(weight=w)",
        option={"divisor": "weights"},
        note="a token weighs what its class does",
    ),
    Kernel("dft", counterpart="LigerFusedLinearCrossEntropyLoss(use_token_scaling=True)"),
    Reading(
        "gmpo",
        "verl, older",
        "geo_mean",
        {"divisor": "rows", "ratio_clip_min": 0.2, "ratio_clip_max": 0.2},
        note="every row has the weight 1 there",
    ),
    Reading("dr_grpo", "verl, older", "seq-mean-token-sum-norm", {"divisor": "length", "max_length": 1024.0}),
    Tune(
        "grpo",
        counterpart="GRPOLoss",
        option={
            "ratio_clip_min": 0.1,
            "ratio_clip_max": 0.1,
            "aggregation": "token_mean",
            "reference_policy_kl_penalty": 0.1,
        },
        note="without global counts",
    ),
    Tune(
        "on_policy", counterpart="GRPOSimpleLoss", option={"aggregation": "seq_mean_token_mean"}, note="its policy term"
    ),
    Tune("rloo", counterpart="GRPOCompletionLoss", note="its policy term: ratios of whole answers, sums of log-ratios"),
    Distil("soft_ce", counterpart="forward_kl"),
    Distil("reverse_kl", counterpart="reverse_kl"),
    Distil("generalized_jsd", counterpart="js_distance, lam=0.9", option={"beta": 0.1}, note="lam weighs the student"),
    Distil("skew_forward_kl", counterpart="skewed_forward_kl", option={"forward_part": "cross_entropy"}),
    Distil("skew_reverse_kl", counterpart="skewed_reverse_kl"),
    Distil("tvd", counterpart="tv_distance"),
    Reading("poly1_ce", "optax", "poly_loss_cross_entropy"),
    Reading("focal_ce", "optax", "sigmoid_focal_loss", difference="a sigmoid per class, not a softmax over them"),
    Papers("tdpo1", counterpart="TDPO1"),
    Papers("tdpo2", counterpart="TDPO2"),
    Papers("beta_dpo", counterpart="beta-DPO", note="pairs are left out at random there; here by a mask that is given"),
    Papers("rrhf", counterpart="RRHF"),
)

READINGS: Final[tuple[Reading, ...]] = (*NEMO_RL, *OTHERS)
