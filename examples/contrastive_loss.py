"""Positive against negative pairs of embeddings, as the guide writes it, with a dot product as similarity.

Fault: ``exp(similarity / 0.1)`` overflows in float32 from a similarity of 8.9 on, and the loss is NaN; when both underflow it
is 0 / 0. ``sample_mask`` is ignored, so rows that are absent still train. ``loss_reference.ContrastiveLoss`` computes the
same function as ``softplus((neg_sim - pos_sim) / temperature)``, and masks.
"""

import torch

from loss_reference import LossFunction


class ContrastiveLoss(LossFunction):
    def __init__(self, config):
        super().__init__(config)
        self.temperature = config.get("temperature", 0.1)

    def compute_loss(self, batch, model_outputs):
        # Extract positive and negative pairs
        positive_pairs = batch["positive_pairs"]
        negative_pairs = batch["negative_pairs"]

        # Compute similarities
        pos_sim = self.compute_similarity(positive_pairs, model_outputs)
        neg_sim = self.compute_similarity(negative_pairs, model_outputs)

        # Contrastive loss
        loss = -torch.log(
            torch.exp(pos_sim / self.temperature)
            / (torch.exp(pos_sim / self.temperature) + torch.exp(neg_sim / self.temperature))
        )

        return loss.mean()

    def compute_similarity(self, pairs, model_outputs):
        embeddings = model_outputs["embeddings"]
        return (embeddings[pairs[:, 0]] * embeddings[pairs[:, 1]]).sum(dim=-1)
