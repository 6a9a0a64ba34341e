"""Several objectives by name and weight, as the guide writes it.

Faults of the pattern: ``zip`` drops objectives that have no weight without a word, an empty list gives the integer 0
instead of a tensor, and an unknown objective is noticed only at the first training step. With its defaults it is correct.
``loss_reference.MultiObjectiveLoss`` refuses all three at construction.
"""

from loss_reference import LossFunction, create_loss_function


class MultiObjectiveLoss(LossFunction):
    def __init__(self, config):
        super().__init__(config)
        self.objectives = config.get("objectives", ["dpo", "sft"])
        self.weights = config.get("weights", [1.0, 1.0])
        self.dpo = create_loss_function({"type": "dpo"})
        self.sft = create_loss_function({"type": "sft"})

    def compute_loss(self, batch, model_outputs):
        total_loss = 0

        for objective, weight in zip(self.objectives, self.weights, strict=False):
            if objective == "dpo":
                loss = self.compute_dpo_loss(batch, model_outputs)
            elif objective == "sft":
                loss = self.compute_sft_loss(batch, model_outputs)
            else:
                loss = self.compute_custom_loss(objective, batch, model_outputs)

            total_loss += weight * loss

        return total_loss

    def compute_dpo_loss(self, batch, model_outputs):
        return self.dpo.compute_loss(batch, model_outputs)

    def compute_sft_loss(self, batch, model_outputs):
        return self.sft.compute_loss(batch, model_outputs)

    def compute_custom_loss(self, objective, batch, model_outputs):
        raise ValueError(f"Unknown objective: {objective}")
