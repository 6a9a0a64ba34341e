"""Reference implementations of training losses, short enough to read beside the equation."""

from loss_reference.composite.adaptive import AdaptiveLoss
from loss_reference.composite.composed import ComposedLoss
from loss_reference.composite.custom_dpo import CustomDPOLoss
from loss_reference.composite.dynamic_weight import DynamicWeightLoss
from loss_reference.composite.multi_objective import MultiObjectiveLoss
from loss_reference.contract import Contract, ContractError, Field, Option
from loss_reference.contrastive.infonce import InfoNCELoss
from loss_reference.contrastive.pairwise import ContrastiveLoss
from loss_reference.diagnostics.components import debug_loss_components
from loss_reference.diagnostics.gradients import GradientReport, analyze_loss_gradients
from loss_reference.diagnostics.stability import LossStabilityMonitor, Stability
from loss_reference.distillation.forward_kl import ForwardKLLoss
from loss_reference.distillation.mixed_kl import MixedKLLoss
from loss_reference.distillation.reverse_kl import ReverseKLLoss
from loss_reference.interface import LossFunction, ModelOutputs
from loss_reference.policy_gradient.grpo import GRPOLoss
from loss_reference.policy_gradient.ppo_clip import PPOClipLoss
from loss_reference.preference.dpo import DPOLoss
from loss_reference.registry import LossFunctionRegistry, create_loss_function, register, registry
from loss_reference.reward.bradley_terry import BradleyTerryLoss
from loss_reference.settings import ConfigError, Setting
from loss_reference.supervised.nll import NLLLoss
from loss_reference.value.value_mse import ValueMSELoss

__all__ = [
    "AdaptiveLoss",
    "BradleyTerryLoss",
    "ComposedLoss",
    "ConfigError",
    "Contract",
    "ContractError",
    "ContrastiveLoss",
    "CustomDPOLoss",
    "DPOLoss",
    "DynamicWeightLoss",
    "Field",
    "ForwardKLLoss",
    "GRPOLoss",
    "GradientReport",
    "InfoNCELoss",
    "LossFunction",
    "LossFunctionRegistry",
    "LossStabilityMonitor",
    "MixedKLLoss",
    "ModelOutputs",
    "MultiObjectiveLoss",
    "NLLLoss",
    "Option",
    "PPOClipLoss",
    "ReverseKLLoss",
    "Setting",
    "Stability",
    "ValueMSELoss",
    "analyze_loss_gradients",
    "create_loss_function",
    "debug_loss_components",
    "register",
    "registry",
]
