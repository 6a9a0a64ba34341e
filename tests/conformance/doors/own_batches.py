"""Batches a user might have, and losses for them."""

import torch
from torch import Tensor

from loss_reference import LossFunction

Batch = tuple[dict[str, Tensor], dict[str, Tensor]]


def a_batch(dtype: torch.dtype = torch.float32, counts: bool = False, rows: int = 4, tokens: int = 6) -> Batch:
    """Prompts of two tokens, answers of up to four, the second row shorter."""
    generator = torch.Generator().manual_seed(0)

    def logprobs(length: int) -> Tensor:
        return -torch.rand(rows, length, generator=generator).to(dtype)

    mask = torch.ones(rows, tokens, dtype=dtype)
    mask[:, :2] = 0
    mask[1, 4:] = 0
    batch = {
        "input_ids": torch.randint(5, (rows, tokens), generator=generator),
        "token_mask": mask,
        "sample_mask": torch.ones(rows, dtype=dtype),
        "reference_policy_logprobs": logprobs(tokens),
    }
    if counts:
        batch["global_valid_toks"] = 3 * mask[:, 1:].sum()
        batch["global_valid_seqs"] = torch.tensor(3.0 * rows, dtype=dtype)
    return batch, {"next_token_logprobs": logprobs(tokens - 1).requires_grad_()}


class MaskedMean(LossFunction):
    """Right."""

    def weights(self, batch):
        return batch["token_mask"][:, 1:] * batch["sample_mask"].unsqueeze(1)

    def compute_loss(self, batch, model_outputs):
        mask = self.weights(batch)
        total = -(torch.where(mask != 0, model_outputs["next_token_logprobs"], 0.0) * mask).sum()
        return total / batch.get("global_valid_toks", mask.sum()).clamp(min=1)


class MeanOfPadding(MaskedMean):
    """Wrong: the mean is over padding too."""

    def compute_loss(self, batch, model_outputs):
        mask = self.weights(batch)
        return (-model_outputs["next_token_logprobs"].mean() * mask).sum() / mask.sum().clamp(min=1)


class Temperatured(MaskedMean):
    """Right; one of its inputs is no tensor."""

    def compute_loss(self, batch, model_outputs):
        assert batch["task"] == "summarise"
        return super().compute_loss(batch, model_outputs) / batch["settings"]["temperature"]


class Scored(MaskedMean):
    """Weights every token by a field nobody declared; masked or not."""

    masked = True

    def compute_loss(self, batch, model_outputs):
        mask = self.weights(batch)
        scores = batch["my_scores"][:, 1:]
        scores = torch.where(mask != 0, scores, 0.0) if self.masked else scores
        logprobs = torch.where(mask != 0, model_outputs["next_token_logprobs"], 0.0)
        total = (-(logprobs * mask) + scores).sum()
        return total / mask.sum().clamp(min=1)


class ScoredWithPadding(Scored):
    masked = False
