"""DPO with a component of your own: here the NLL of the chosen answers, which keeps them likely while DPO widens the gap.

Correct: the component masks padding, counts pairs as DPO does, and divides by the same global count.
"""

from loss_reference import Contract, DPOLoss


class CustomDPOLoss(DPOLoss):
    contract = Contract(family="preference", level="pair", normalizer="global", lower_bound=0.0)

    def __init__(self, config):
        super().__init__(config)
        self.custom_weight = config.get("custom_weight", 1.0)

    def compute_loss(self, batch, model_outputs):
        # Get base DPO loss
        base_loss = super().compute_loss(batch, model_outputs)

        # Add custom component
        custom_component = self.compute_custom_component(batch, model_outputs)

        return base_loss + self.custom_weight * custom_component

    def compute_custom_component(self, batch, model_outputs):
        """Mean over pairs of the chosen answer's -log-probability per token."""
        logprobs = model_outputs["next_token_logprobs"]
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"].unsqueeze(1)
        logprobs = logprobs.masked_fill(mask == 0, 0.0)

        tokens = (mask != 0).sum(dim=1)
        nll = -logprobs.sum(dim=1) / tokens.clamp(min=1)

        chosen_nll = nll[0::2]
        pair_mask = batch["sample_mask"][0::2].minimum(batch["sample_mask"][1::2])
        num_pairs = batch["global_valid_seqs"] / 2 if "global_valid_seqs" in batch else pair_mask.sum()
        return (chosen_nll * pair_mask).sum() / num_pairs.clamp(min=1)
