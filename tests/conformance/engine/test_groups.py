"""Losses whose terms compare K neighbouring rows: the cases come in whole groups, and the laws move groups."""

import torch.nn.functional as F
from torch import Tensor

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from loss_reference import Contract, LossFunction
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
