"""Losses whose terms compare K neighbouring rows: the cases come in whole groups, and the laws move groups."""

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from loss_reference import Contract, DPOLoss, LossFunction, Setting
from loss_reference.groups import group_weights, mean_of_groups, split_groups
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import trained_logprobs
from loss_reference.reduction import keep_active, row_weights

TRIPLES = Contract(family="preference", group_size=3, normalizer="global", lower_bound=0.0, length_normalized=False)


class Triples(LossFunction):
    """Rows (chosen, rejected, target): softplus(p_l - p_w) - p_t, p the log-probability of an answer."""

    contract = TRIPLES

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, _m = trained_logprobs(batch, model_outputs)
        p, w = split_groups(lp.sum(dim=1), 3), row_weights(batch, lp)
        terms = F.softplus(p[:, 1] - p[:, 0]) - p[:, 2]
        return mean_of_groups(keep_active(terms, group_weights(w, 3)), w, batch, 3)


class NextGroupsTarget(Triples):
    """The mistake: the target answer of the next group."""

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, _m = trained_logprobs(batch, model_outputs)
        p, w = split_groups(lp.sum(dim=1), 3), row_weights(batch, lp)
        terms = F.softplus(p[:, 1] - p[:, 0]) - p[:, 2].roll(1)
        return mean_of_groups(keep_active(terms, group_weights(w, 3)), w, batch, 3)


class Undeclared(Triples):
    """The same loss, saying nothing about its rows."""

    contract = Contract()


class InHalves(DPOLoss):
    """DPO that takes all chosen rows first, and says so."""

    pair_layout = Setting("halves", choices=("interleaved", "halves"))


class InHalvesUnmasked(InHalves):
    """The mistake: an answer counts through its prompt."""

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp = model_outputs["next_token_logprobs"]
        h = (lp - batch["reference_policy_logprobs"][:, 1:]).sum(dim=1) + 0 * batch["token_mask"].sum()
        w = torch.minimum(*row_weights(batch, lp).chunk(2))
        chosen, rejected = h.chunk(2)
        return (w * F.softplus(rejected - chosen)).sum() / w.sum().clamp(min=1)


def failed(loss: type) -> set[str]:
    return {v.check for v in check_loss(loss, profile="quick", seed=0).having(Status.FAILED)}


def test_whole_groups_pass() -> None:
    report = check_loss(Triples, profile="quick", seed=0)
    assert not report.having(Status.FAILED)
    assert not report.having(Status.BLOCKED)
    passed = {v.check for v in report.having(Status.PASSED)}
    assert {"microbatch", "duplicate_rows", "batch_permutation", "row_independence", "absent_rows"} <= passed


def test_a_group_that_looks_at_the_next_one_fails() -> None:
    assert {"microbatch", "absent_rows"} <= failed(NextGroupsTarget)


def test_without_a_declaration_nothing_is_accused() -> None:
    assert failed(Undeclared) == set()


def test_pairs_laid_out_as_halves_are_measured_and_fed_so() -> None:
    report = check_loss(InHalves, profile="quick", seed=0)
    assert not report.having(Status.FAILED)
    passed = {v.check for v in report.having(Status.PASSED)}
    assert {"absent_rows", "batch_permutation", "row_independence", "wanted_direction"} <= passed


def test_mistakes_in_halves_are_seen() -> None:
    assert "mask_value" in failed(InHalvesUnmasked)


def test_the_layout_of_a_reference_loss_is_an_option_with_an_effect() -> None:
    report = check_loss("loss_reference.DPOLoss", config={"pair_layout": "halves"}, profile="quick", seed=0)
    assert not report.having(Status.FAILED)
    assert not report.having(Status.ADVICE)
