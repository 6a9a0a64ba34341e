"""A run in which losses do their worst: their own checks fail by name, everything else goes on, with workers and without."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch._dynamo
import torch._inductor.test_operators  # noqa: F401 - see test_real_engine.py

PROJECT = Path(__file__).parents[3]

MODULE = """
import os, signal, time, threading
import torch
import torch.nn.functional as F
from loss_reference import LossFunction


class Sound(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        total = batch.get("global_valid_toks", mask.sum()).clamp(min=1)
        self.before(mask)
        return -(model_outputs["next_token_logprobs"].where(mask != 0, 0.0) * mask).sum() / total

    def before(self, mask):
        pass


class Aborts(Sound):
    def before(self, mask):
        if not mask.any():
            os.abort()


class Leaves(Sound):
    def before(self, mask):
        os._exit(0)


class Hangs(Sound):
    def before(self, mask):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        while not mask.any():
            time.sleep(1)


class Replaces(Sound):
    def before(self, mask):
        F.logsigmoid = lambda x: x
        torch.where = lambda *arguments: None
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)


class Leaks(Sound):
    def before(self, mask):
        threading.Thread(target=time.sleep, args=(2,)).start()
        print("x" * 10**6)


"""

OWN_TESTS = """
import threading
import torch
import torch.nn.functional as F


def test_nothing_happened_here():
    assert float(F.logsigmoid(torch.zeros(()))) < -0.69
    assert float(torch.where(torch.ones(()) > 0, 1.0, 2.0)) == 1.0
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert not [thread for thread in threading.enumerate() if "sleep" in thread.name]
"""

HOSTILE = {
    "Aborts": ("empty_batch", "the process died: SIGABRT (abort)"),
    "Hangs": ("empty_batch", "no answer, and nothing that could interrupt it"),
    "Replaces": ("global_state_kept", "torch default dtype: torch.float32 → torch.float64; "),
    "Leaks": ("nothing_left_running", "each call leaves running: thread 'Thread-"),
}

IMPATIENT = """
from dataclasses import replace
from loss_conformance.apart import process
from loss_conformance.profile import PROFILES

process.GRACE = 1.0
PROFILES["quick"] = replace(PROFILES["quick"], seconds=5.0)
"""


@pytest.fixture
def folder(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    pytester.makepyfile(theirs=MODULE, test_own=OWN_TESTS)
    pytester.makeconftest(IMPATIENT)
    return pytester


def run(folder: pytest.Pytester, *losses: str, arguments: tuple[str, ...] = ()) -> tuple[pytest.RunResult, Any]:
    named = [part for loss in losses for part in ("--loss-conformance", f"theirs.{loss}")]
    options = ["--loss-profile=quick", "--loss-device=cpu", "--loss-report=report", *arguments]
    result = folder.runpytest_subprocess(*named, *options, "test_own.py")
    return result, json.loads((folder.path / "report" / "report.json").read_text())


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_each_fails_by_name_and_the_rest_goes_on(folder: pytest.Pytester, workers: str) -> None:
    result, report = run(folder, *HOSTILE, "Leaves", "Sound", arguments=(workers,))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.no_fnmatch_line("*worker*crashed*")
    *hostile, leaves, sound = report["targets"]
    for target, (check, said) in zip(hostile, HOSTILE.values(), strict=True):
        failures = {c["check"]: c["failure"]["got"] for c in target["checks"] if c["status"] == "failed"}
        assert failures[check].startswith(said), target["target"]
        assert target["complete"]
        assert target["counts"]["passed"] >= 20
    assert leaves["counts"]["error"] >= 1
    assert set(sound["counts"]) == {"passed", "not applicable"}
    assert not [line for line in result.outlines if "test_own.py" in line and "FAILED" in line]


def test_the_reports_say_how_a_check_died(folder: pytest.Pytester) -> None:
    result, report = run(folder, "Aborts", arguments=("-k", "empty_batch", "--junitxml=junit.xml"))
    ((record,),) = [target["checks"] for target in report["targets"]]
    assert (record["check"], record["status"], record["cases"]) == ("empty_batch", "failed", 0)
    failure = record["failure"]
    assert failure["got"] == "the process died: SIGABRT (abort)"
    assert failure["case"].startswith("B=")
    assert "os.abort()" in failure["traceback"]
    page = (folder.path / "report" / "report.html").read_text()
    for text in (page, result.stdout.str(), (folder.path / "junit.xml").read_text()):
        assert "the process died: SIGABRT (abort)" in text
        assert "os.abort()" in text
    assert '<tr class="failed"><td>empty_batch</td>' in page
    replayed = folder.run("python", "report/empty_batch.py")
    assert replayed.ret == 1
    replayed.stdout.fnmatch_lines(["*::empty_batch FAILED", "*the process died: SIGABRT (abort)*"])
