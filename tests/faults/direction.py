"""Signs, roles and bounds."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction, Option
from tests.faults.fault import UNSEEN, Fault
from tests.faults.finite import RewardSoftplus
from tests.faults.masking import JsdLogs, Nll, RowsWeighed
from tests.faults.parts import (
    constant,
    gathered,
    kept,
    pair_mean,
    pair_weights,
    pairs,
    policy,
    row_mean,
    row_weights,
    sequence_ratio,
    token_mean,
    token_weights,
)
from tests.faults.reduction import DividedOnce, GlobalMask

SFT = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)
DPO = Contract(family="preference", level="pair", normalizer="global", lower_bound=0.0)
PG = Contract(family="policy_gradient", normalizer="global")
KD = Contract(family="distillation", level="token", normalizer="global", lower_bound=0.0)
LOG2 = math.log(2)


class LogLikelihood(LossFunction):
    """The minus is missing."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return token_mean(policy(model_outputs, m), m, batch)


class ChosenIsRejected(LossFunction):
    def compute_loss(self, batch, model_outputs):
        rejected, chosen = pairs(sequence_ratio(batch, model_outputs))
        w = pair_weights(batch, model_outputs["next_token_logprobs"])
        return pair_mean(F.softplus(rejected - chosen), w, batch)


class HalvesNotInterleaved(LossFunction):
    """The first half of the rows is taken for the chosen ones."""

    def compute_loss(self, batch, model_outputs):
        chosen, rejected = sequence_ratio(batch, model_outputs).chunk(2)
        w = pair_weights(batch, model_outputs["next_token_logprobs"])
        return pair_mean(F.softplus(rejected - chosen), w, batch)


class RewardReversed(LossFunction):
    def compute_loss(self, batch, model_outputs):
        chosen, rejected = pairs(model_outputs["rewards"])
        return pair_mean(F.softplus(chosen - rejected), pair_weights(batch, model_outputs["rewards"]), batch)


class PolicyGradientReversed(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        ratio = (policy(model_outputs, m) - constant(batch, "prev_logprobs", m)).clamp(max=20).exp()
        return token_mean(constant(batch, "advantages", m) * ratio, m, batch)


class MinimumOfClip(LossFunction):
    """min where the surrogate wants max: optimistic instead of pessimistic."""

    def choose(self, a, b):
        return torch.minimum(a, b)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        rho = (policy(model_outputs, m) - constant(batch, "prev_logprobs", m)).clamp(max=20).exp()
        a = constant(batch, "advantages", m)
        return token_mean(self.choose(-a * rho, -a * rho.clamp(0.8, 1.2)), m, batch)


class MaximumOfClip(MinimumOfClip):
    def choose(self, a, b):
        return torch.maximum(a, b)


class ValueAway(LossFunction):
    """Values pushed away from the returns."""

    def term(self, v, r):
        return -(v - r).square()

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        v, r = kept(model_outputs["values"], m), kept(batch["returns"].detach(), m)
        n = batch.get("global_valid_toks", m.sum())
        return (self.term(v, r) * m).sum() / n.clamp(min=1)


class ValueTowards(ValueAway):
    def term(self, v, r):
        return (v - r).square()


class OneMinusFocal(LossFunction):
    """One minus the focal sum."""

    def sign(self, total, m):
        return 1 - total

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = gathered(batch, model_outputs, m)
        total = token_mean(-(1 - lp.exp()).square() * lp, m, batch)
        return self.sign(total, m)


class FocalSquare(OneMinusFocal):
    def sign(self, total, m):
        return total


class KlAdded(LossFunction):
    """Reward plus c KL for reward minus c KL."""

    def __init__(self, config=None):
        super().__init__(config)
        self.kl_coef = self.config.get("kl_coef", 0.1)

    def shaped(self, a, kl):
        return a + self.kl_coef * kl

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        kl = lp.detach() - constant(batch, "reference_policy_logprobs", m)
        return token_mean(-lp * self.shaped(constant(batch, "advantages", m), kl), m, batch)


class KlSubtracted(KlAdded):
    def shaped(self, a, kl):
        return a - self.kl_coef * kl


class EntropyMinimised(LossFunction):
    """The entropy bonus has the sign of a penalty."""

    def __init__(self, config=None):
        super().__init__(config)
        self.entropy_coef = self.config.get("entropy_coef", 0.1)

    def sign(self):
        return 1.0

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = gathered(batch, model_outputs, m)
        p = kept(model_outputs["logits"][:, :-1], m).softmax(-1)
        entropy = -(p * p.clamp(min=1e-30).log()).sum(-1)
        policy_term = token_mean(-lp * constant(batch, "advantages", m), m, batch)
        return policy_term + self.sign() * self.entropy_coef * token_mean(entropy, m, batch)


class EntropyMaximised(EntropyMinimised):
    def sign(self):
        return -1.0


class JsdInLogSpace(JsdLogs):
    """The mixture is interpolated between log-probabilities."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1).clamp(min=-1e4)
        t = kept(batch["teacher_logits"][:, :-1].detach(), m).log_softmax(-1).clamp(min=-1e4)
        mixture = (s + t) / 2
        return token_mean((s.exp() * (s - mixture) + t.exp() * (t - mixture)).sum(-1) / 2, m, batch)


class KlOverClasses(LossFunction):
    """Forward KL averaged over the vocabulary as well."""

    def reduce(self, terms):
        return terms.mean(-1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        t = kept(batch["teacher_logits"][:, :-1].detach(), m).log_softmax(-1)
        difference = torch.where(torch.isinf(t), 0.0, t - s)
        return token_mean(self.reduce(t.exp() * difference), m, batch)


class KlOfTokens(KlOverClasses):
    def reduce(self, terms):
        return terms.sum(-1)


class KlRolesExchanged(KlOverClasses):
    """t (s - t): the negative of the divergence."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        t = kept(batch["teacher_logits"][:, :-1].detach(), m).log_softmax(-1)
        return token_mean((t.exp() * torch.where(torch.isinf(t), 0.0, s - t)).sum(-1), m, batch)


class WithHalfTheCe(KlOfTokens):
    """Half a cross-entropy is left in: not 0 for equal student and teacher."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return super().compute_loss(batch, model_outputs) + 0.5 * token_mean(-gathered(batch, model_outputs, m), m, batch)


class SoftmaxTwice(LossFunction):
    """CE(softmax(z))."""

    def scores(self, z):
        return z.softmax(-1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z = self.scores(kept(model_outputs["logits"][:, :-1], m))
        lp = z.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        return token_mean(-lp, m, batch)


class SoftmaxOnce(SoftmaxTwice):
    def scores(self, z):
        return z


class LogWithEpsilon(LossFunction):
    """log(p + eps): below 0 at p = 1."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        p = kept(model_outputs["logits"][:, :-1], m).softmax(-1)
        p = p.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        return token_mean(-torch.log(p + 1e-3), m, batch)


class TiledWeights(LossFunction):
    """Row weights repeated token by token onto the rows, in the wrong order."""

    def spread(self, w, tokens):
        return w.repeat(tokens)

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"][:, 1:]
        w = row_weights(batch, m)
        weight = batch["rewards"].detach().abs() * w
        lp = policy(model_outputs, m * w[:, None]).flatten()
        n = (m * w[:, None]).sum().clamp(min=1)
        return -(lp * self.spread(weight, m.shape[1]) * m.flatten()).sum() / n


class RepeatedWeights(TiledWeights):
    def spread(self, w, tokens):
        return w.repeat_interleave(tokens)


class BySizeOfWeights(LossFunction):
    """Weights per token or per row, told apart by their size: wrong when B = S - 1."""

    def spread(self, w, terms):
        return w if w.shape[0] == terms.shape[1] else w[:, None]

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"][:, 1:]
        w = row_weights(batch, m)
        terms = -policy(model_outputs, m * w[:, None])
        return (terms * self.spread(w, terms)).sum() / (m * w[:, None]).sum().clamp(min=1)


class ByAxisOfWeights(BySizeOfWeights):
    def spread(self, w, terms):
        return w[:, None]


class ColumnAgainstRow(LossFunction):
    """(N, 1) prediction against (N,) target: the mean over N x N."""

    def target(self, batch):
        return batch["rewards"].detach()

    def compute_loss(self, batch, model_outputs):
        w = row_weights(batch, batch["token_mask"])
        v = kept(model_outputs["values"], batch["token_mask"] * w[:, None]).sum(1, keepdim=True)
        if not bool((w != 0).any()):
            return (v * 0).sum()
        v, y, w = v[w != 0], self.target(batch)[w != 0], w[w != 0]
        error = (v - y).square()
        return (error * w[:, None]).sum() / (w.sum() * error.shape[1]).clamp(min=1)


class ColumnAgainstColumn(ColumnAgainstRow):
    def target(self, batch):
        return batch["rewards"].detach()[:, None]


FAULTS = (
    Fault("B132", "KL added to the reward", "pytorch/rl@96c300322", KlAdded, KlSubtracted, ("direction",), Contract(family="policy_gradient", normalizer="global", surrogate_gradient=True, direction={"kl_coef": +1}, options={"kl_coef": Option(values=(0.1, 1.0))}), bare=UNSEEN),
    Fault("B133", "entropy bonus with the wrong sign", "DLR-RM/stable-baselines3@8f9aaaeb", EntropyMinimised, EntropyMaximised, ("direction",), Contract(family="policy_gradient", normalizer="global", direction={"entropy_coef": -1}, options={"entropy_coef": Option(values=(0.1, 1.0))}), bare=UNSEEN),
    Fault("B134", "one minus the focal sum", "kornia/kornia@4992bf309", OneMinusFocal, FocalSquare, ("direction", "reduction", "finite"), SFT),
    Fault("B139", "JSD mixture in log space", "huggingface/trl@7e5924d17", JsdInLogSpace, JsdLogs, ("positivity",), Contract(family="distillation", level="token", normalizer="global", lower_bound=0.0, upper_bound=LOG2), bare=UNSEEN),
    Fault("B141", "half a cross-entropy left in the divergence", "huggingface/trl@63a78d9e5", WithHalfTheCe, KlOfTokens, ("positivity",), KD, bare=UNSEEN),
    Fault("B142", "softmax before cross-entropy", "OpenRLHF/OpenRLHF@83371f29", SoftmaxTwice, SoftmaxOnce, ("positivity", "baseline"), Contract(family="supervised", baseline="nll"), bare=UNSEEN),
    Fault("B143", "KL averaged over classes", "haitongli/knowledge-distillation-pytorch#2", KlOverClasses, KlOfTokens, ("baseline",), Contract(family="distillation", baseline="forward_kl"), bare=UNSEEN),
    Fault("B147", "flattening mixes rows", "qubvel-org/segmentation_models.pytorch@a542c55", TiledWeights, RepeatedWeights, ("symmetry", "masking"), Contract(normalizer="local")),
    Fault("B151", "(N, 1) against (N,)", "benedekrozemberczki/pytorch_geometric_temporal#233", ColumnAgainstRow, ColumnAgainstColumn, ("symmetry",), Contract(level="sequence", normalizer="local", coupled=False), bare="advice"),
    Fault("X60", "missing minus", "", LogLikelihood, Nll, ("direction", "positivity"), SFT),
    Fault("X61", "chosen and rejected exchanged", "", ChosenIsRejected, DividedOnce, ("direction",), DPO),
    Fault("X62", "halves taken for pairs", "", HalvesNotInterleaved, DividedOnce, ("direction", "symmetry"), DPO),
    Fault("X63", "reward margin reversed", "", RewardReversed, RewardSoftplus, ("direction",), Contract(family="reward", level="pair", normalizer="global")),
    Fault("X64", "sign of the policy gradient", "", PolicyGradientReversed, GlobalMask, ("direction",), PG),
    Fault("X65", "min for max in the clipped surrogate", "", MinimumOfClip, MaximumOfClip, ("direction", "positivity"), PG, bare=UNSEEN),
    Fault("X66", "values pushed away", "", ValueAway, ValueTowards, ("direction", "positivity"), Contract(family="value", normalizer="global", lower_bound=0.0)),
    Fault("X67", "the negative of the divergence", "", KlRolesExchanged, KlOfTokens, ("positivity",), KD),
    Fault("X68", "log(p + eps)", "kornia/kornia@fdb5d39bf", LogWithEpsilon, SoftmaxOnce, ("positivity",), SFT, bare="advice"),
    Fault("X69", "row weights taken for token weights when B = S - 1", "", BySizeOfWeights, ByAxisOfWeights, ("symmetry", "masking", "reduction"), Contract(family="supervised", level="token", normalizer="local")),
)
