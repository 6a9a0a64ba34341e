"""verify: the laws on a batch of the user's own, before the first training step."""

from collections.abc import Iterator

import pytest
import torch

from loss_conformance import verify
from loss_conformance.doors import NonConformant
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.verdict import Report, Status
from loss_reference import Contract, DPOLoss, NLLLoss
from tests.conformance.doors.own_batches import (
    Batch,
    MaskedMean,
    MeanOfPadding,
    Scored,
    ScoredWithPadding,
    Temperatured,
    a_batch,
)


def ended(report: Report, status: Status) -> list[str]:
    return [verdict.check for verdict in report.having(status)]


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("loss", [MaskedMean, NLLLoss, DPOLoss])
def test_a_right_loss_holds(loss: type, dtype: torch.dtype, counts: bool) -> None:
    report = verify(loss, *a_batch(dtype, counts))
    assert report.conformant
    held = ended(report, Status.PASSED)
    for law in ("scalar_output", "mask_value", "mask_extreme", "padding", "absent_rows", "microbatch", "finite_value"):
        assert law in held


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_loss_raises(dtype: torch.dtype, counts: bool) -> None:
    with pytest.raises(NonConformant) as raised:
        verify(MeanOfPadding, *a_batch(dtype, counts))
    assert "mask_value" in ended(raised.value.report, Status.FAILED)


def test_what_it_raises_reads_like_a_failing_run() -> None:
    with pytest.raises(NonConformant) as raised:
        verify(MeanOfPadding, *a_batch(), checks=("mask_value",))
    text = str(raised.value)
    assert isinstance(raised.value, AssertionError)
    assert "own_batches.MeanOfPadding::mask_value FAILED\n" in text
    assert "  L(batch) must not change when only content at masked positions changes.\n" in text
    assert "B=4 S=6" in text
    assert "(your own batch)" in text
    assert 'model_outputs["next_token_logprobs"][0,0]: ' in text
    assert "Likely cause" in text
    assert "shrunk" not in text


def test_dependants_of_a_broken_law_are_named_as_blocked() -> None:
    with pytest.raises(NonConformant, match="mask_gradient blocked by mask_value"):
        verify(MeanOfPadding, *a_batch())


@pytest.fixture
def batch_left_alone() -> Iterator[Batch]:
    """A batch that must be the same after the test."""
    batch, outputs = a_batch()
    kept = [{name: x.detach().clone() for name, x in mapping.items()} for mapping in (batch, outputs)]
    yield batch, outputs
    for mapping, before in zip((batch, outputs), kept, strict=True):
        assert mapping.keys() == before.keys()
        assert all(torch.equal(mapping[name], before[name]) for name in before)
    assert outputs["next_token_logprobs"].requires_grad
    assert outputs["next_token_logprobs"].grad is None


def test_the_batch_is_not_changed(batch_left_alone: Batch) -> None:
    assert verify(MaskedMean, *batch_left_alone).conformant


def test_the_batch_is_not_changed_by_a_wrong_loss(batch_left_alone: Batch) -> None:
    with pytest.raises(NonConformant):
        verify(MeanOfPadding, *batch_left_alone)


def test_an_instance_keeps_its_settings() -> None:
    assert verify(DPOLoss({"beta": 0.5}), *a_batch()).conformant


def test_only_the_named_checks_run() -> None:
    report = verify(MaskedMean, *a_batch(), checks=("mask_value", "finite"))
    assert {verdict.group for verdict in report.verdicts} == {"masking", "finite"}
    assert [verdict.check for verdict in report.verdicts if verdict.group == "masking"] == ["mask_value"]


def test_entries_that_are_no_tensors_are_handed_through() -> None:
    batch, outputs = a_batch()
    batch.update(task="summarise", settings={"temperature": 2.0})
    assert verify(Temperatured, batch, outputs).conformant


@pytest.mark.parametrize(("rows", "tokens"), [(4, 6), (4, 4), (4, 5), (6, 4)])
def test_a_tensor_nobody_declared_is_recognised_by_its_size(rows: int, tokens: int) -> None:
    batch, outputs = a_batch(rows=rows, tokens=tokens)
    batch["my_scores"] = torch.rand(rows, tokens, generator=torch.Generator().manual_seed(1))
    assert verify(Scored, batch, outputs).conformant
    with pytest.raises(NonConformant) as raised:
        verify(ScoredWithPadding, batch, outputs, checks=("mask_value",))
    assert 'batch["my_scores"][' in str(raised.value)


def test_a_missing_field_is_named() -> None:
    batch, outputs = a_batch()
    del batch["reference_policy_logprobs"]
    with pytest.raises(CannotFeed) as refused:
        verify(DPOLoss, batch, outputs)
    assert str(refused.value) == "it reads batch['reference_policy_logprobs'], which is not there"


def test_a_misspelt_field_is_named_with_the_nearest_there_is() -> None:
    batch, outputs = a_batch()
    batch["token_masks"] = batch.pop("token_mask")
    with pytest.raises(CannotFeed) as refused:
        verify(MaskedMean, batch, outputs)
    assert str(refused.value) == "it reads batch['token_mask'], which is not there; did you mean 'token_masks'?"
    assert 'batch["token_mask"][:, 1:]' in refused.value.traceback


def test_a_loss_that_raises_on_it_says_what() -> None:
    batch, outputs = a_batch(rows=3)
    with pytest.raises(CannotFeed, match=r"^it raised ValueError: .*3"):
        verify(DPOLoss, batch, outputs)


def test_a_loss_with_another_calling_convention_is_refused() -> None:
    with pytest.raises(CannotFeed) as refused:
        verify("torch.nn.MSELoss", *a_batch())
    assert str(refused.value) == (
        "verify takes losses with compute_loss(batch, model_outputs); torch.nn.MSELoss has none"
    )


def test_a_contract_given_beside_the_loss_counts() -> None:
    exempt = Contract(family="supervised", level="token", exempt={"mask_value": "padding counts on purpose"})
    report = verify(MeanOfPadding, *a_batch(), checks=("mask_value",), contract=exempt)
    assert ended(report, Status.EXPECTED_FAILURE) == ["mask_value"]


def test_an_unknown_check_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"^no check or group is named 'mask_valeu'; did you mean 'mask_value'\?$"):
        verify(MaskedMean, *a_batch(), checks=("mask_valeu",))
