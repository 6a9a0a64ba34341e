"""Reference implementations of training losses, short enough to read beside the equation."""

from typing import TYPE_CHECKING, Any

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
from loss_reference.families import import_families, registered_class
from loss_reference.interface import LossFunction, ModelOutputs
from loss_reference.policy_gradient.cispo import CISPOLoss
from loss_reference.policy_gradient.gmpo import GMPOLoss
from loss_reference.policy_gradient.grpo import GRPOLoss
from loss_reference.policy_gradient.gspo import GSPOLoss, GSPOTokenLoss, LUSPOLoss
from loss_reference.policy_gradient.ppo_clip import PPOClipLoss
from loss_reference.policy_gradient.ppo_variants import BNPOLoss, DAPOLoss, DrGRPOLoss, PPODualClipLoss
from loss_reference.policy_gradient.reinforce import OnPolicyLoss, ReinforceLoss
from loss_reference.policy_gradient.sapo import SAPOLoss
from loss_reference.policy_gradient.vespo import VESPOLoss
from loss_reference.preference.absolute import (
    APODownLoss,
    APOZeroLoss,
    BCOPairLoss,
    CalDPOLoss,
    DPOPLoss,
    NCAPairLoss,
    SPPOHardLoss,
)
from loss_reference.preference.dpo import DPOLoss
from loss_reference.preference.f_divergence import FDPOAlphaLoss, FDPOForwardKLLoss, FDPOJSLoss
from loss_reference.preference.imitation import CPOLoss, ORPOLoss
from loss_reference.preference.length import LDDPOLoss, RDPOLoss
from loss_reference.preference.margin import DiscoPOPLoss, DPONormLoss, HingeDPOLoss, IPOLoss
from loss_reference.preference.reference_free import AlphaPOLoss, SimPOLoss, SLiCHFLoss
from loss_reference.preference.reward_aware import ODPOLoss, REBELLoss, RPOBwdKLLoss, RPOFwdKLLoss, RPOSqLoss
from loss_reference.preference.smoothed import CDPOLoss, EXOPairLoss, RobustDPOLoss
from loss_reference.preference.sorted import AOTLoss, AOTUnpairedLoss
from loss_reference.registry import LossFunctionRegistry, create_loss_function, register, registry
from loss_reference.reward.bradley_terry import BradleyTerryLoss
from loss_reference.settings import ConfigError, Setting
from loss_reference.supervised.nll import NLLLoss
from loss_reference.value.value_clipped import ValueClippedLoss
from loss_reference.value.value_mse import ValueMSELoss

import_families()

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # A loss that is registered but not listed below can be imported from here all the same.
        return registered_class(name)


__all__ = [
    "AOTLoss",
    "AOTUnpairedLoss",
    "APODownLoss",
    "APOZeroLoss",
    "AdaptiveLoss",
    "AlphaPOLoss",
    "BCOPairLoss",
    "BNPOLoss",
    "BradleyTerryLoss",
    "CDPOLoss",
    "CISPOLoss",
    "CPOLoss",
    "CalDPOLoss",
    "ComposedLoss",
    "ConfigError",
    "Contract",
    "ContractError",
    "ContrastiveLoss",
    "CustomDPOLoss",
    "DAPOLoss",
    "DPOLoss",
    "DPONormLoss",
    "DPOPLoss",
    "DiscoPOPLoss",
    "DrGRPOLoss",
    "DynamicWeightLoss",
    "EXOPairLoss",
    "FDPOAlphaLoss",
    "FDPOForwardKLLoss",
    "FDPOJSLoss",
    "Field",
    "ForwardKLLoss",
    "GMPOLoss",
    "GRPOLoss",
    "GSPOLoss",
    "GSPOTokenLoss",
    "GradientReport",
    "HingeDPOLoss",
    "IPOLoss",
    "InfoNCELoss",
    "LDDPOLoss",
    "LUSPOLoss",
    "LossFunction",
    "LossFunctionRegistry",
    "LossStabilityMonitor",
    "MixedKLLoss",
    "ModelOutputs",
    "MultiObjectiveLoss",
    "NCAPairLoss",
    "NLLLoss",
    "ODPOLoss",
    "ORPOLoss",
    "OnPolicyLoss",
    "Option",
    "PPOClipLoss",
    "PPODualClipLoss",
    "RDPOLoss",
    "REBELLoss",
    "RPOBwdKLLoss",
    "RPOFwdKLLoss",
    "RPOSqLoss",
    "ReinforceLoss",
    "ReverseKLLoss",
    "RobustDPOLoss",
    "SAPOLoss",
    "SLiCHFLoss",
    "SPPOHardLoss",
    "Setting",
    "SimPOLoss",
    "Stability",
    "VESPOLoss",
    "ValueClippedLoss",
    "ValueMSELoss",
    "analyze_loss_gradients",
    "create_loss_function",
    "debug_loss_components",
    "register",
    "registry",
]
