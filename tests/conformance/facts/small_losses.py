"""Small losses that promise nothing, written as people write them."""

from typing import Any

import torch
import torch.nn.functional as F

from loss_reference import LossFunction


def weights(batch: Any) -> torch.Tensor:
    return batch["token_mask"][:, 1:] * batch["sample_mask"].unsqueeze(1)


def per_row(batch: Any, outputs: Any, average: bool = False) -> torch.Tensor:
    mask = weights(batch)
    total = torch.where(mask != 0, outputs["next_token_logprobs"], 0.0).sum(1)
    return total / (mask != 0).sum(1).clamp(min=1) if average else total


class TokenMean(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = weights(batch)
        return -torch.where(mask != 0, model_outputs["next_token_logprobs"], 0.0).sum() / mask.sum().clamp(min=1)


class GlobalTokenMean(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = weights(batch)
        count = batch.get("global_valid_toks", mask.sum())
        return -torch.where(mask != 0, model_outputs["next_token_logprobs"], 0.0).sum() / count.clamp(min=1)


class FromLogits(LossFunction):
    def compute_loss(self, batch, model_outputs):
        logprobs = model_outputs["logits"].log_softmax(-1)[:, :-1]
        nll = -logprobs.gather(-1, batch["input_ids"][:, 1:].unsqueeze(-1)).squeeze(-1)
        mask = weights(batch)
        return torch.where(mask != 0, nll, 0.0).sum() / mask.sum().clamp(min=1)


class SequenceSum(LossFunction):
    def compute_loss(self, batch, model_outputs):
        count = batch.get("global_valid_seqs", batch["sample_mask"].sum())
        return -per_row(batch, model_outputs).sum() / count.clamp(min=1)


class WithReference(LossFunction):
    """DPO."""

    def compute_loss(self, batch, model_outputs):
        mask = weights(batch)
        reference = torch.where(mask != 0, batch["reference_policy_logprobs"][:, 1:], 0.0).sum(1)
        gain = per_row(batch, model_outputs) - reference
        return F.softplus(gain[1::2] - gain[0::2]).mean()


class ReferenceFree(LossFunction):
    """SimPO: nothing in the fields it reads says that rows come in pairs."""

    def compute_loss(self, batch, model_outputs):
        score = per_row(batch, model_outputs, average=True)
        return F.softplus(score[1::2] - score[0::2]).mean()


class ReferenceFreeAdded(LossFunction):
    """A linear margin: no row's gradient moves with the other's, but an odd number of rows is refused."""

    def compute_loss(self, batch, model_outputs):
        score = per_row(batch, model_outputs)
        return (score[1::2] - score[0::2]).mean()


class Unpaired(LossFunction):
    """KTO without its batch mean: a label for each row instead of pairs."""

    def compute_loss(self, batch, model_outputs):
        mask = weights(batch)
        reference = torch.where(mask != 0, batch["reference_policy_logprobs"][:, 1:], 0.0).sum(1)
        gain = per_row(batch, model_outputs) - reference
        return F.softplus(torch.where(batch["labels"] > 0, -gain, gain)).mean()


class PolicyGradient(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = weights(batch)
        ratio = torch.exp(model_outputs["next_token_logprobs"] - batch["prev_logprobs"][:, 1:])
        gain = torch.where(mask != 0, ratio * batch["advantages"][:, 1:], 0.0)
        return -gain.sum() / mask.sum().clamp(min=1)


class Whitened(LossFunction):
    """Rows are coupled: each log-probability is judged against the batch."""

    def compute_loss(self, batch, model_outputs):
        score = per_row(batch, model_outputs)
        white = (score - score.mean()) / (score.std() + 1e-6)
        return -(white * score).mean()


class PairsJudgedByTheBatch(LossFunction):
    """Pairs whose weights follow the whole batch: rows look everywhere, and still come in pairs."""

    def compute_loss(self, batch, model_outputs):
        score = per_row(batch, model_outputs, average=True)
        margins = score[0::2] - score[1::2]
        return (F.softplus(-margins) * margins.detach().softmax(0)).sum() * margins.mean().exp()


class ValueRegression(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"] * batch["sample_mask"].unsqueeze(1)
        error = (model_outputs["values"] - batch["returns"]) ** 2
        return torch.where(mask != 0, error, 0.0).sum() / mask.sum().clamp(min=1)


class RewardPairs(LossFunction):
    def compute_loss(self, batch, model_outputs):
        rewards = model_outputs["rewards"]
        return F.softplus(rewards[1::2] - rewards[0::2]).mean()


class RewardRegression(LossFunction):
    def compute_loss(self, batch, model_outputs):
        return ((model_outputs["rewards"] - batch["rewards"]) ** 2 * batch["sample_mask"]).mean()


class Distilled(LossFunction):
    def compute_loss(self, batch, model_outputs):
        teacher = batch["teacher_logits"].softmax(-1)[:, :-1]
        terms = -(teacher * model_outputs["logits"].log_softmax(-1)[:, :-1]).sum(-1)
        mask = weights(batch)
        return torch.where(mask != 0, terms, 0.0).sum() / mask.sum().clamp(min=1)


class InBatchNegatives(LossFunction):
    def compute_loss(self, batch, model_outputs):
        embeddings = F.normalize(model_outputs["embeddings"], dim=-1)
        pairs = batch["positive_pairs"]
        return F.cross_entropy(embeddings[pairs[:, 0]] @ embeddings.T, pairs[:, 1])


class Uniformity(LossFunction):
    """Embeddings keep their distance from all others of the batch."""

    def compute_loss(self, batch, model_outputs):
        x = model_outputs["embeddings"]
        return torch.pdist(x).square().mul(-0.1).exp().mean()


class Centred(LossFunction):
    """Each embedding is pulled to the class it belongs to, whatever the others do."""

    def compute_loss(self, batch, model_outputs):
        x = model_outputs["embeddings"]
        return (x - batch["labels"].to(x).unsqueeze(1)).square().sum(1).mean()


class RewardMinusBatchMean(LossFunction):
    """REINFORCE whose baseline is the mean reward of the batch."""

    def compute_loss(self, batch, model_outputs):
        w = batch["sample_mask"]
        baseline = (w * batch["rewards"]).sum() / w.sum().clamp(min=1)
        return -((batch["rewards"] - baseline) * w * per_row(batch, model_outputs)).sum() / w.sum().clamp(min=1)


class RewardWeighted(LossFunction):
    """REINFORCE without a baseline."""

    def compute_loss(self, batch, model_outputs):
        return -(batch["rewards"] * per_row(batch, model_outputs)).sum() / batch["sample_mask"].sum().clamp(min=1)


class RewardedPairs(LossFunction):
    """SimPO, with a margin that says how much better the chosen answer is."""

    def compute_loss(self, batch, model_outputs):
        gain, rewards = per_row(batch, model_outputs, average=True), batch["rewards"]
        return F.softplus(gain[1::2] - gain[0::2] + rewards[0::2] - rewards[1::2]).mean()
