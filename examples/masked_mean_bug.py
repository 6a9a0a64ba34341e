"""A next-token loss whose mask multiplies after the mean.

Wrong, though it looks right: ``logprobs.mean()`` already averages over padding and prompt, and the masked average of that one
number is the number itself. The mask has no effect at all. ``correct_masked_nll.py`` is the right twin.
"""

from loss_reference import Contract, LossFunction


class MaskedMeanLoss(LossFunction):
    contract = Contract(family="supervised", level="token")

    def compute_loss(self, batch, model_outputs):
        logprobs = model_outputs["next_token_logprobs"]
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"].unsqueeze(1)

        nll = -logprobs.mean()
        return (nll * mask).sum() / mask.sum().clamp(min=1)
