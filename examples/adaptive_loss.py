"""A loss that adapts to its distance from a target, as the guide writes it.

Fault: ``base_loss.item()`` makes the adaptive component a plain number. It changes the value that is shown and never the
gradient, so nothing adapts; it also stalls the accelerator at every step, gives -0.1 instead of 0 for an all-masked batch,
and the losses of microbatches do not add up. ``loss_reference.AdaptiveLoss`` scales the loss instead.
"""

from loss_reference import DPOLoss, LossFunction


class AdaptiveLoss(LossFunction):
    def __init__(self, config):
        super().__init__(config)
        self.adaptation_rate = config.get("adaptation_rate", 0.1)
        self.target_loss = config.get("target_loss", 1.0)
        self.base = DPOLoss()

    def compute_loss(self, batch, model_outputs):
        base_loss = self.compute_base_loss(batch, model_outputs)

        # Adaptive component based on current vs target loss
        loss_ratio = base_loss.item() / self.target_loss
        adaptive_component = self.adaptation_rate * (loss_ratio - 1.0)

        return base_loss + adaptive_component

    def compute_base_loss(self, batch, model_outputs):
        return self.base.compute_loss(batch, model_outputs)
