"""A loss that hangs, exits, fills the memory or changes the process is told so, and the process is as it was."""

import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from loss_conformance.global_state import changed_state, global_state
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.verdict import Status
from tests.conformance.engine import misbehaving as bad
from tests.conformance.engine.misbehaving import got, quick_engine, verdicts

SHORT = 0.3
LONGER = 1.5
"""Enough for the first call of a loss that works, also on a busy machine."""


@pytest.fixture(autouse=True)
def process_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test here runs in an empty folder, and must leave the state of the process alone."""
    monkeypatch.chdir(tmp_path)
    before = global_state()
    yield
    assert changed_state(before, global_state()) == {}


@pytest.mark.parametrize(
    ("loss", "limits", "said"),
    [
        (bad.Hangs, SHORT, "its first call gave no answer within 0.3 s"),
        (bad.Exits, None, "on its first call it called sys.exit(3)"),
        (bad.FillsMemory, None, "its first call ran out of memory"),
    ],
)
def test_on_the_first_call(loss: type, limits: float | None, said: str) -> None:
    with pytest.raises(CannotFeed) as refused:
        quick_engine(loss, seconds=limits).run("scalar_output")
    assert str(refused.value) == said


def test_raising_on_the_first_call_shows_the_users_own_frames_alone() -> None:
    with pytest.raises(CannotFeed) as refused:
        quick_engine(bad.Raises).run("scalar_output")
    assert str(refused.value) == (
        "it raised ArithmeticError: not today\n"
        "on its first call, with batch and model_outputs of the vocabulary (read so far: token_mask, sample_mask, "
        "global_valid_toks, next_token_logprobs)"
    )
    assert "misbehaving.py" in refused.value.traceback
    assert "loss_conformance" not in refused.value.traceback


def test_hanging_on_an_empty_batch_alone() -> None:
    started = time.perf_counter()
    assert got(bad.HangsWhenEmpty, "empty_batch", seconds=LONGER) == (
        Status.FAILED,
        "no answer within 1.5 s",
        "an answer",
    )
    # One limit is waited for, not one for each of the attempts to shrink.
    assert time.perf_counter() - started < 10 * LONGER


def test_exiting_on_an_empty_batch_alone() -> None:
    assert got(bad.ExitsWhenEmpty, "empty_batch") == (
        Status.FAILED,
        "it called sys.exit('no tokens')",
        "an exception, or a loss",
    )


def test_filling_the_memory_on_an_empty_batch_alone() -> None:
    assert got(bad.FillsMemoryWhenEmpty, "empty_batch") == (
        Status.FAILED,
        "it ran out of memory",
        "a loss of a few numbers",
    )


def test_raising_on_an_empty_batch_alone() -> None:
    (verdict,) = verdicts(bad.RaisesWhenEmpty, "empty_batch")
    assert verdict.failure is not None
    assert (verdict.status, verdict.failure.got) == (Status.FAILED, "it raised ArithmeticError: no tokens")
    assert "misbehaving.py" in verdict.failure.traceback
    assert "loss_conformance" not in verdict.failure.traceback


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (bad.Seeds, "torch random state changed"),
        (bad.Draws, "random state changed; numpy random state changed"),
        (bad.ChangesDtype, "torch default dtype: torch.float32 → torch.float64"),
        (bad.DisablesGradients, "torch grad mode: True → False"),
        (bad.ChangesThreads, "torch thread count: 1 → 2"),
    ],
)
def test_changing_the_state_of_the_process(loss: type, said: str) -> None:
    assert got(loss, "global_state_kept") == (Status.FAILED, said, "no change")


def test_changing_the_directory() -> None:
    here = os.getcwd()
    brief = f"working directory: {here} → /"
    said = brief if len(here) < 59 else "working directory changed"
    assert got(bad.ChangesDirectory, "global_state_kept") == (Status.FAILED, said, "no change")


def test_what_changes_the_process_breaks_no_other_law() -> None:
    for loss in (bad.DisablesGradients, bad.ChangesDtype, bad.Draws):
        failed = [v.check for v in quick_engine(loss).report().verdicts if v.status is Status.FAILED]
        assert failed == ["global_state_kept"], loss


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (bad.Prints, "it prints 'value: True'"),
        (bad.Warns, "it warns 'UserWarning: careful with this one'"),
        (bad.WritesFile, "it writes the file 'loss.log'"),
    ],
)
def test_noise_is_advised_against(loss: type, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert got(loss, "quiet") == (Status.ADVICE, said, "silence")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_warning_breaks_no_law_even_where_warnings_are_errors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        noted = [(v.check, v.status) for v in quick_engine(bad.Warns).report().verdicts if v.failure is not None]
    assert noted == [("quiet", Status.ADVICE)]


def test_a_correct_loss_does_none_of_this() -> None:
    found = verdicts(bad.TokenMean, "global_state_kept", "quiet", "empty_batch")
    assert [v.status for v in found] == [Status.PASSED] * 3
