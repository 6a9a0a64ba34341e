"""TRL 1.16: the losses its trainers hold as methods, called as functions of sequence log-probabilities or logits."""

import os
from types import SimpleNamespace

import pytest
import torch

from tests.interop.released import failed, library

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
library("trl.experimental.cpo.cpo_trainer", "trl.experimental.orpo.orpo_trainer", "trl.experimental.gkd.gkd_trainer")
pytestmark = pytest.mark.filterwarnings("ignore")

ACCELERATOR = SimpleNamespace(device=torch.device("cpu"))


def cpo(loss_type, alpha=0.0):
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    trainer = SimpleNamespace(loss_type=loss_type, alpha=alpha, beta=0.1, simpo_gamma=0.5, label_smoothing=0.0)
    trainer.accelerator = ACCELERATOR

    def cpo_loss(policy_chosen_logps, policy_rejected_logps):
        return CPOTrainer.cpo_loss(trainer, policy_chosen_logps, policy_rejected_logps)[0].mean()

    return cpo_loss


def odds_ratio(policy_chosen_logps, policy_rejected_logps):
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    trainer = SimpleNamespace(beta=0.1, accelerator=ACCELERATOR)
    return -ORPOTrainer.odds_ratio_loss(trainer, policy_chosen_logps, policy_rejected_logps)[0].mean()


def generalized_jsd(student_logits, teacher_logits, labels=None, beta=0.5, temperature=1.0):
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    return GKDTrainer.generalized_jsd_loss(student_logits, teacher_logits, labels, beta, temperature)


def self_distillation(student_logits, teacher_logits, completion_mask):
    from trl.experimental.sdpo import loss_utils

    of_tokens = loss_utils.compute_full_logit_self_distillation_loss(
        student_logits, teacher_logits, distillation_alpha=0.5
    )
    return (of_tokens * completion_mask).sum() / completion_mask.sum().clamp(min=1)


@pytest.mark.parametrize("loss_type", ["sigmoid", "simpo", "hinge", "ipo"])
def test_cpo(loss_type):
    assert failed(cpo(loss_type)) == set()


@pytest.mark.parametrize("loss", [generalized_jsd, self_distillation])
def test_distillation(loss):
    assert failed(loss) == set()


def test_odds_ratio_of_a_certain_sequence():
    # A log-probability of exactly 0: the derivative of log(1 - p) is infinite, that of the saturated logsigmoid is 0.
    assert failed(odds_ratio) == {"finite_gradient"}


def test_alpha_po_leaves_log_space():
    # exp(logp).pow(-alpha): the probability of a whole sequence underflows below a log-probability of -103, and
    # inf - inf is nan. exp(-alpha * logp) would hold.
    assert "finite_value" in failed(cpo("sigmoid", alpha=0.25))
