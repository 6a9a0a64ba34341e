"""Reference implementations of training losses, short enough to read beside the equation."""

from typing import TYPE_CHECKING, Any

from loss_reference.auxiliary.router import MoELoadBalanceLoss, RouterZLoss
from loss_reference.composite.actor_critic import ActorCriticTotalLoss
from loss_reference.composite.adaptive import AdaptiveLoss
from loss_reference.composite.composed import ComposedLoss
from loss_reference.composite.custom_dpo import CustomDPOLoss
from loss_reference.composite.draft import DraftLoss
from loss_reference.composite.dwa import DWALoss
from loss_reference.composite.dynamic_loss_scaling import DynamicLossScalingLoss
from loss_reference.composite.dynamic_weight import DynamicWeightLoss
from loss_reference.composite.flooding import FloodingLoss
from loss_reference.composite.multi_objective import MultiObjectiveLoss
from loss_reference.composite.multi_teacher import MultiTeacherLoss
from loss_reference.composite.presets import MPOLoss, RPONLLLoss
from loss_reference.composite.sequence_packing import SequencePackingLoss
from loss_reference.composite.uncertainty_weighting import UncertaintyWeightingLoss
from loss_reference.contract import Contract, ContractError, Field, Option
from loss_reference.contrastive.distances import MarginContrastiveLoss, TripletMarginLoss
from loss_reference.contrastive.infonce import InfoNCELoss
from loss_reference.contrastive.pair_weighting import CircleLoss, MultiSimilarityLoss
from loss_reference.contrastive.pairwise import ContrastiveLoss
from loss_reference.contrastive.softmax_over_batch import NTXentLoss, SupConLoss
from loss_reference.contrastive.two_views import CLIPSymmetricLoss, NPairsLoss, SigLIPLoss
from loss_reference.diagnostics.components import debug_loss_components
from loss_reference.diagnostics.gradients import GradientReport, analyze_loss_gradients
from loss_reference.diagnostics.stability import LossStabilityMonitor, Stability
from loss_reference.distillation.cosine_distill import CosineDistillLoss
from loss_reference.distillation.cross_tokenizer import XTokenGoldLoss, XTokenPKLLoss
from loss_reference.distillation.forward_kl import ForwardKLLoss
from loss_reference.distillation.hinton_kd import HintonKDLoss
from loss_reference.distillation.minillm import MiniLLMLoss
from loss_reference.distillation.mixed_kl import MixedKLLoss
from loss_reference.distillation.mixture import GeneralizedJSDLoss, SkewForwardKLLoss, SkewReverseKLLoss
from loss_reference.distillation.on_policy import IWOPDLoss, OPDSampledLoss
from loss_reference.distillation.reverse_kl import ReverseKLLoss
from loss_reference.distillation.self_distillation import SDFTLoss, SDPOLoss
from loss_reference.distillation.soft_ce import SoftCELoss
from loss_reference.distillation.tail_bucket import TailBucketLoss
from loss_reference.distillation.topk import TopKRenormLoss, ZeroOutsideTopKLoss
from loss_reference.distillation.tvd import TVDLoss
from loss_reference.distillation.uld import HybridULDLoss, ULDLoss
from loss_reference.families import import_families, registered_class
from loss_reference.interface import LossFunction, ModelOutputs
from loss_reference.policy_gradient.a2po import A2POLoss
from loss_reference.policy_gradient.cispo import CISPOLoss
from loss_reference.policy_gradient.corrected import (
    DivergenceMaskLoss,
    IcePopLoss,
    OffPolicyMaskLoss,
    SequenceMaskLoss,
    SequenceMaskTISLoss,
    SequenceTruncateLoss,
    TISLoss,
)
from loss_reference.policy_gradient.covariance import ClipCovLoss, KLCovLoss
from loss_reference.policy_gradient.entropy import EntropyBonusLoss
from loss_reference.policy_gradient.gmpo import GMPOLoss
from loss_reference.policy_gradient.grpo import GRPOLoss
from loss_reference.policy_gradient.gspo import GSPOLoss, GSPOTokenLoss, LUSPOLoss
from loss_reference.policy_gradient.kl_losses import (
    KLAbsLoss,
    KLK1Loss,
    KLK2Loss,
    KLK3Loss,
    KLStraightThroughLoss,
    KLUnbiasedLoss,
)
from loss_reference.policy_gradient.ppo_clip import PPOClipLoss
from loss_reference.policy_gradient.ppo_variants import BNPOLoss, DAPOLoss, DrGRPOLoss, PPODualClipLoss
from loss_reference.policy_gradient.reinforce import GPGLoss, OnPolicyLoss, ReinforceLoss
from loss_reference.policy_gradient.rloo import RLOOLoss
from loss_reference.policy_gradient.sapo import SAPOLoss
from loss_reference.policy_gradient.vapo_nll import VAPONLLLoss
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
from loss_reference.preference.bco import BCOLoss
from loss_reference.preference.beta_dpo import BetaDPOLoss
from loss_reference.preference.chi_po import ChiPOLoss
from loss_reference.preference.dpo import DPOLoss
from loss_reference.preference.f_divergence import FDPOAlphaLoss, FDPOForwardKLLoss, FDPOJSLoss
from loss_reference.preference.imitation import CPOLoss, ORPOLoss
from loss_reference.preference.infonca import InfoNCALoss
from loss_reference.preference.judged import NashMDLoss, OnlineDPOLoss, SPPOSoftLoss, XPOLoss
from loss_reference.preference.length import LDDPOLoss, RDPOLoss
from loss_reference.preference.margin import DiscoPOPLoss, DPONormLoss, HingeDPOLoss, IPOLoss
from loss_reference.preference.ranking import LiPOLoss, PlackettLuceDPOLoss
from loss_reference.preference.reference_free import AlphaPOLoss, SimPOLoss, SLiCHFLoss
from loss_reference.preference.reward_aware import (
    ODPOLoss,
    REBELLoss,
    RPOBwdKLLoss,
    RPOFwdKLLoss,
    RPOScaleLoss,
    RPOSqLoss,
)
from loss_reference.preference.rrhf import RRHFLoss
from loss_reference.preference.smoothed import CDPOLoss, EXOPairLoss, RobustDPOLoss
from loss_reference.preference.sorted import AOTLoss, AOTUnpairedLoss
from loss_reference.preference.tdpo import TDPO1Loss, TDPO2Loss
from loss_reference.preference.triple import TPOLLoss, TPOLoss
from loss_reference.preference.unpaired import APOZeroUnpairedLoss, KTOLoss
from loss_reference.preference.wpo import WPOLoss
from loss_reference.registry import LossFunctionRegistry, create_loss_function, register, registry
from loss_reference.reward.bradley_terry import BradleyTerryLoss
from loss_reference.reward.bradley_terry_variants import (
    BTCenteredLoss,
    BTMarginLoss,
    BTSoftLabelLoss,
    LogExpPairwiseLoss,
)
from loss_reference.reward.outcome import ORMBCELoss, RewardRegressionLoss
from loss_reference.reward.process import PRMTokenCELoss
from loss_reference.reward.ranking import AllPairsKLoss, PlackettLuceRMLoss
from loss_reference.settings import ConfigError, Setting
from loss_reference.supervised.mtp_ce import MTPCELoss
from loss_reference.supervised.nll import NLLLoss
from loss_reference.supervised.reweighted import DFTLoss, FocalCELoss, Poly1CELoss
from loss_reference.supervised.smoothing import ConfidencePenaltyLoss, LabelSmoothedCELoss
from loss_reference.supervised.unlikelihood import UnlikelihoodLoss
from loss_reference.supervised.weighted_nll import WeightedNLLLoss
from loss_reference.supervised.z_loss import ZLoss
from loss_reference.value.value_clipped import ValueClippedLoss
from loss_reference.value.value_mse import ValueMSELoss

import_families()

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # A loss that is registered but not listed below can be imported from here all the same.
        return registered_class(name)


__all__ = [
    "A2POLoss",
    "AOTLoss",
    "AOTUnpairedLoss",
    "APODownLoss",
    "APOZeroLoss",
    "APOZeroUnpairedLoss",
    "ActorCriticTotalLoss",
    "AdaptiveLoss",
    "AllPairsKLoss",
    "AlphaPOLoss",
    "BCOLoss",
    "BCOPairLoss",
    "BNPOLoss",
    "BTCenteredLoss",
    "BTMarginLoss",
    "BTSoftLabelLoss",
    "BetaDPOLoss",
    "BradleyTerryLoss",
    "CDPOLoss",
    "CISPOLoss",
    "CLIPSymmetricLoss",
    "CPOLoss",
    "CalDPOLoss",
    "ChiPOLoss",
    "CircleLoss",
    "ClipCovLoss",
    "ComposedLoss",
    "ConfidencePenaltyLoss",
    "ConfigError",
    "Contract",
    "ContractError",
    "ContrastiveLoss",
    "CosineDistillLoss",
    "CustomDPOLoss",
    "DAPOLoss",
    "DFTLoss",
    "DPOLoss",
    "DPONormLoss",
    "DPOPLoss",
    "DWALoss",
    "DiscoPOPLoss",
    "DivergenceMaskLoss",
    "DrGRPOLoss",
    "DraftLoss",
    "DynamicLossScalingLoss",
    "DynamicWeightLoss",
    "EXOPairLoss",
    "EntropyBonusLoss",
    "FDPOAlphaLoss",
    "FDPOForwardKLLoss",
    "FDPOJSLoss",
    "Field",
    "FloodingLoss",
    "FocalCELoss",
    "ForwardKLLoss",
    "GMPOLoss",
    "GPGLoss",
    "GRPOLoss",
    "GSPOLoss",
    "GSPOTokenLoss",
    "GeneralizedJSDLoss",
    "GradientReport",
    "HingeDPOLoss",
    "HintonKDLoss",
    "HybridULDLoss",
    "IPOLoss",
    "IWOPDLoss",
    "IcePopLoss",
    "InfoNCALoss",
    "InfoNCELoss",
    "KLAbsLoss",
    "KLCovLoss",
    "KLK1Loss",
    "KLK2Loss",
    "KLK3Loss",
    "KLStraightThroughLoss",
    "KLUnbiasedLoss",
    "KTOLoss",
    "LDDPOLoss",
    "LUSPOLoss",
    "LabelSmoothedCELoss",
    "LiPOLoss",
    "LogExpPairwiseLoss",
    "LossFunction",
    "LossFunctionRegistry",
    "LossStabilityMonitor",
    "MPOLoss",
    "MTPCELoss",
    "MarginContrastiveLoss",
    "MiniLLMLoss",
    "MixedKLLoss",
    "MoELoadBalanceLoss",
    "ModelOutputs",
    "MultiObjectiveLoss",
    "MultiSimilarityLoss",
    "MultiTeacherLoss",
    "NCAPairLoss",
    "NLLLoss",
    "NPairsLoss",
    "NTXentLoss",
    "NashMDLoss",
    "ODPOLoss",
    "OPDSampledLoss",
    "ORMBCELoss",
    "ORPOLoss",
    "OffPolicyMaskLoss",
    "OnPolicyLoss",
    "OnlineDPOLoss",
    "Option",
    "PPOClipLoss",
    "PPODualClipLoss",
    "PRMTokenCELoss",
    "PlackettLuceDPOLoss",
    "PlackettLuceRMLoss",
    "Poly1CELoss",
    "RDPOLoss",
    "REBELLoss",
    "RLOOLoss",
    "RPOBwdKLLoss",
    "RPOFwdKLLoss",
    "RPONLLLoss",
    "RPOScaleLoss",
    "RPOSqLoss",
    "RRHFLoss",
    "ReinforceLoss",
    "ReverseKLLoss",
    "RewardRegressionLoss",
    "RobustDPOLoss",
    "RouterZLoss",
    "SAPOLoss",
    "SDFTLoss",
    "SDPOLoss",
    "SLiCHFLoss",
    "SPPOHardLoss",
    "SPPOSoftLoss",
    "SequenceMaskLoss",
    "SequenceMaskTISLoss",
    "SequencePackingLoss",
    "SequenceTruncateLoss",
    "Setting",
    "SigLIPLoss",
    "SimPOLoss",
    "SkewForwardKLLoss",
    "SkewReverseKLLoss",
    "SoftCELoss",
    "Stability",
    "SupConLoss",
    "TDPO1Loss",
    "TDPO2Loss",
    "TISLoss",
    "TPOLLoss",
    "TPOLoss",
    "TVDLoss",
    "TailBucketLoss",
    "TopKRenormLoss",
    "TripletMarginLoss",
    "ULDLoss",
    "UncertaintyWeightingLoss",
    "UnlikelihoodLoss",
    "VAPONLLLoss",
    "VESPOLoss",
    "ValueClippedLoss",
    "ValueMSELoss",
    "WPOLoss",
    "WeightedNLLLoss",
    "XPOLoss",
    "XTokenGoldLoss",
    "XTokenPKLLoss",
    "ZLoss",
    "ZeroOutsideTopKLoss",
    "analyze_loss_gradients",
    "create_loss_function",
    "debug_loss_components",
    "register",
    "registry",
]
