"""Liger-Kernel 0.8: chunked losses, which take hidden states and the weight of the head; the head here is the identity."""

import pytest
import torch

from loss_reference import Contract, LossFunction
from tests.interop.released import failed, library

library("liger_kernel.chunked_loss")
pytestmark = pytest.mark.filterwarnings("ignore")

MIXES = "the matrix product with the head spreads what is not finite over the row"


class Identity(LossFunction):
    """What the chunked losses share: shifted logits as hidden states, an identity head, labels with -100."""

    def inputs(self, batch, logits):
        hidden = logits[:, :-1].clamp(min=-1e4)  # -inf times a zero of the head would be nan
        head = torch.eye(hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
        labels = torch.where(batch["token_mask"][:, 1:] > 0, batch["input_ids"][:, 1:], -100)
        return hidden, head, labels


class Preference(Identity):
    """Chosen rows first, then rejected ones, as Liger wants them."""

    contract = Contract(family="preference", level="pair", exempt={"mask_extreme": MIXES})

    def compute_loss(self, batch, model_outputs):
        import liger_kernel.chunked_loss as liger

        hidden, head, labels = self.inputs(batch, model_outputs["logits"])
        order = torch.arange(len(hidden)).reshape(-1, 2).T.flatten()
        loss = getattr(liger, f"LigerFusedLinear{self.config['loss']}Loss")(compiled=False)
        return loss(head, hidden[order], labels[order])[0]


class JSD(Identity):
    contract = Contract(family="distillation", exempt={"mask_extreme": MIXES})

    def compute_loss(self, batch, model_outputs):
        import liger_kernel.chunked_loss as liger

        hidden, head, labels = self.inputs(batch, model_outputs["logits"])
        teacher = batch["teacher_logits"][:, :-1].clamp(min=-1e4)
        size = head.shape[0]
        loss = liger.LigerFusedLinearJSDLoss(compiled=False)
        return loss(hidden.reshape(-1, size), head, teacher.reshape(-1, size), head, labels.flatten())


@pytest.mark.parametrize("loss", ["SimPO", "ORPO"])
def test_a_sequence_without_trained_token_is_nan(loss):
    # average_log_prob divides by the trained tokens of each sequence: one sequence without any (its completion was cut
    # off) makes the loss of the whole batch nan.
    assert "finite_value" in failed(Preference, {"loss": loss})


@pytest.mark.parametrize(("loss", "config"), [(JSD, None), (Preference, {"loss": "CPO"})])
def test_sound_with_torch_func_inside(loss, config):
    assert failed(loss, config) == set()
