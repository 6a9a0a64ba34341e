"""A next-token loss that masks before the mean: the right twin of ``masked_mean_bug.py``.

Masked entries are replaced, not multiplied, so that NaN or inf in padding cannot get through; the sum is divided by the tokens
that are trained, of the global batch when their number is given. A mask of another shape is refused, not broadcast.
"""

import torch

from loss_reference import Contract, LossFunction


class MaskedNLLLoss(LossFunction):
    contract = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0, baseline="nll")

    def compute_loss(self, batch, model_outputs):
        logprobs = model_outputs["next_token_logprobs"]
        rows, predicted = logprobs.shape
        for name, shape in (("token_mask", (rows, predicted + 1)), ("sample_mask", (rows,))):
            if batch[name].shape != shape:
                raise ValueError(f"{name} has shape {tuple(batch[name].shape)}; expected {shape}")
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"].unsqueeze(1)

        logprobs = torch.where(mask != 0, logprobs, 0.0)
        count = batch.get("global_valid_toks", mask.sum())
        return -(logprobs * mask).sum() / count.clamp(min=1)
