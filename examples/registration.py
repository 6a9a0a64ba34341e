"""Register a loss under a name and build it from a config; works as it stands.

``register`` adds to the registry of the package, so that ``create_loss_function`` and compositions find the name. A registry of
your own, as the guide makes one, is there as well.
"""

from loss_reference import LossFunctionRegistry, NLLLoss, create_loss_function, register


@register("scaled_nll")
class ScaledNLLLoss(NLLLoss):
    """NLL times a scale."""

    def __init__(self, config):
        super().__init__(config)
        self.scale = config.get("scale", 2.0)

    def compute_loss(self, batch, model_outputs):
        return self.scale * super().compute_loss(batch, model_outputs)


# A registry of your own
registry = LossFunctionRegistry()


@registry.register("custom_loss")
class CustomLoss(NLLLoss):
    pass


def build():
    """Both ways of creating a loss."""
    from_config = create_loss_function({"type": "scaled_nll", "scale": 0.5})
    from_registry = registry.create("custom_loss", {})
    return from_config, from_registry
