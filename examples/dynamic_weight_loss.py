"""Weights that follow the ratios of the losses, as the guide writes it.

Faults: a loss of 0, which an all-masked batch gives, ends in ZeroDivisionError; once one loss is 101 times the next, the
weight of the next is negative and training *raises* that loss; ``.item()`` stalls the accelerator per loss; the losses of
microbatches do not add up. ``loss_reference.DynamicWeightLoss`` keeps the weights at or above 0 and on the device.
"""

from loss_reference import DPOLoss, LossFunction, NLLLoss


class DynamicWeightLoss(LossFunction):
    def __init__(self, config):
        super().__init__(config)
        self.base_weights = config.get("base_weights", [1.0, 1.0])
        self.adaptation_rate = config.get("adaptation_rate", 0.01)
        self.loss_functions = [DPOLoss(), NLLLoss()]

    def compute_loss(self, batch, model_outputs):
        losses = []

        # Compute individual losses
        for loss_fn in self.loss_functions:
            loss = loss_fn.compute_loss(batch, model_outputs)
            losses.append(loss)

        # Dynamic weight adjustment
        weights = self.compute_dynamic_weights(losses)

        # Combine losses
        return sum(w * loss for w, loss in zip(weights, losses, strict=True))

    def compute_dynamic_weights(self, losses):
        """Compute dynamic weights based on loss values"""
        weights = list(self.base_weights)

        # Adjust weights based on loss ratios
        for i in range(len(losses) - 1):
            ratio = losses[i].item() / losses[i + 1].item()
            adjustment = self.adaptation_rate * (ratio - 1.0)

            weights[i] += adjustment
            weights[i + 1] -= adjustment

        return weights
