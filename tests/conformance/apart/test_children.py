"""Children: nothing of them is left, no more of them than needed, and none where they would be in the way."""

import os
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loss_conformance import check_loss
from loss_conformance.apart import apart, engine_apart, process
from loss_conformance.apart.apart import answering
from loss_conformance.apart.engine_apart import EngineApart
from loss_conformance.apart.switch import IN_PROCESS
from loss_conformance.engine import Engine
from loss_conformance.subject.load import load_subject
from loss_conformance.verdict import Status
from tests.conformance.apart import hostile


def make(loss: type = hostile.Sound) -> Engine:
    return Engine(load_subject(loss), profile="quick", device="cpu")


def running() -> set[str]:
    """The command lines of all processes there are."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found.add((entry / "cmdline").read_text().replace("\0", " ").strip())
            except OSError:
                continue
    return found


def test_a_child_gives_the_verdicts_of_the_engine_it_makes() -> None:
    here, there = make(), EngineApart(make, "Sound")
    assert [c.name for c in there.checks()] == [c.name for c in here.checks()]
    for check in here.checks():
        one, other = here.run(check.name), there.run(check.name)
        assert (one.status, one.reason, one.failure, one.cases) == (
            other.status,
            other.reason,
            other.failure,
            other.cases,
        )
    assert (there.facts(), there.warnings(), there.header()) == (here.facts(), here.warnings(), here.header())
    there.close()


def test_what_a_loss_starts_ends_with_the_run() -> None:
    threads, before = threading.enumerate(), set(process._alive)
    check_loss(hostile.ChangesEverything, profile="quick", checks=("scalar_output",))
    assert threading.enumerate() == threads
    assert "sleep 61.5" not in running()
    assert "HOSTILE" not in os.environ
    assert process._alive <= before


def test_what_a_loss_prints_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    report = check_loss(hostile.Floods, profile="quick", checks=("quiet",))
    assert [v.status for v in report.verdicts] == [Status.ADVICE]
    assert capfd.readouterr() == ("", "")


def test_a_run_of_many_losses_keeps_few_children_and_forgets_nothing() -> None:
    engines = [EngineApart(make, "Sound") for _ in range(6)]
    verdicts = [engine.run("scalar_output") for engine in engines]
    assert len(process._alive) <= engine_apart.MOST_AT_A_TIME
    assert [engine.run("scalar_output") for engine in engines] == verdicts
    assert len({engine.facts() for engine in engines}) == 1
    assert engines[0].run("mask_value").status is Status.PASSED
    for engine in engines:
        engine.close()
    assert process._alive == set()


def test_an_interrupt_ends_the_child_and_the_next_question_gets_its_own_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = EngineApart(make, "Sound")

    def interrupted(child: process.ChildProcess) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(process.ChildProcess, "_wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.run("scalar_output")
    assert engine.run("mask_value").check == "mask_value"
    engine.close()


def test_a_fork_beside_threads_does_not_warn() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EngineApart(make, "Sound").close()
    done.set()
    thread.join()


@pytest.mark.parametrize("reason", ["asked for", "a debugger", "an accelerator", "torch.distributed"])
def test_the_loss_stays_here(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = sys.gettrace()
    if reason == "asked for":
        monkeypatch.setenv(IN_PROCESS, "1")
    elif reason == "an accelerator":
        monkeypatch.setattr(apart, "accelerator_here", lambda: True)
    elif reason == "torch.distributed":
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    else:
        sys.settrace(lambda *event: None)
    try:
        assert isinstance(answering(make, "Sound"), Engine)
    finally:
        sys.settrace(trace)


def test_the_loss_stays_here_where_torch_does_not_work_in_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def grad(*arguments: object) -> tuple[Tensor, ...]:
        raise RuntimeError("Unable to handle autograd's threading in combination with fork-based multiprocessing")

    monkeypatch.setattr(torch.autograd, "grad", grad)
    assert isinstance(answering(make, "Sound"), Engine)


def test_a_child_that_gives_no_sign_of_life_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "FIRST_WORD", 0.2)
    monkeypatch.setattr(torch.autograd, "grad", lambda *arguments: time.sleep(60))
    assert isinstance(answering(make, "Sound"), Engine)


def test_an_error_of_ours_in_the_child_is_an_error_here() -> None:
    engine = EngineApart(make, "Sound")
    with pytest.raises(ValueError, match="no check is named 'mask_valu'; did you mean 'mask_value'"):
        engine.run("mask_valu")
    engine.close()
