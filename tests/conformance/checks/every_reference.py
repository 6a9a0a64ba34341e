"""Every reference loss, and the configuration of those that need one."""

from loss_reference import registry

CONFIGS = {
    "ComposedLoss": {"loss_functions": [{"type": "dpo"}, {"type": "nll", "weight": 0.5}]},
    "DynamicWeightLoss": {"loss_functions": [{"type": "dpo"}, {"type": "nll"}], "base_weights": [1.0, 0.5]},
    "DWALoss": {"losses": [{"type": "dpo"}, {"type": "nll"}]},
    "UncertaintyWeightingLoss": {"losses": [{"type": "dpo"}, {"type": "nll"}]},
    "MultiObjectiveLoss": {"objectives": ["dpo", "sft"], "weights": [1.0, 0.5]},
    "DrGRPOLoss": {"max_length": 16},
}
# Several names may stand for one class, and other tests register losses of their own.
REGISTERED = {registry.get(name) for name in registry.names()}
LOSSES = sorted((c for c in REGISTERED if c.__module__.startswith("loss_reference.")), key=lambda cls: cls.__name__)
