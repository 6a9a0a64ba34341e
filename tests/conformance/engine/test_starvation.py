"""Seconds in which a loss waits for a processor that others hold are not counted against it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loss_conformance import guard
from loss_conformance.apart import marker
from loss_conformance.attempt import Attempt
from loss_conformance.guard import TimeLimit, contained
from loss_conformance.starvation import seconds_starved, waiting_for

BUSY = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not tell")
def test_a_process_that_shares_its_processor_is_starved() -> None:
    processor = min(os.sched_getaffinity(0))
    others = [subprocess.Popen([sys.executable, "-c", BUSY, str(processor)]) for _ in range(2)]
    try:
        time.sleep(0.3)
        before = [seconds_starved(other.pid) for other in others]
        time.sleep(1.0)
        waited = [seconds_starved(other.pid) - b for other, b in zip(others, before, strict=True)]
        alone = seconds_starved()
        with waiting_for([other.pid for other in others]):
            together = seconds_starved()
        without = seconds_starved()
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert sum(waited) > 0.5
    assert together - alone > 0.9 * sum(waited)
    assert without - alone < 0.1 * sum(waited)


def test_a_process_that_is_not_there_is_not_starved() -> None:
    assert seconds_starved(2**22 + 1) == 0.0


class Clock:
    """A process that is starved all the time, up to a number of seconds."""

    def __init__(self, most: float) -> None:
        self.started, self.most = time.monotonic(), most

    def __call__(self, process: int | None = None) -> float:
        return min(time.monotonic() - self.started, self.most)


def test_a_limit_does_not_count_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "seconds_starved", Clock(most=1.0))
    with contained(0.2):
        time.sleep(0.6)


def test_a_limit_counts_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "seconds_starved", Clock(most=0.4))
    started = time.monotonic()
    with pytest.raises(TimeLimit, match=r"no answer within 0\.2 s"), contained(0.2):
        time.sleep(5.0)
    assert 0.5 < time.monotonic() - started < 2.0


def test_the_parent_of_a_child_does_not_count_them(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = marker.Marker()
    with watched.attempting(Attempt("finite_value"), 0.1):
        time.sleep(0.3)
        assert watched.late_by() > 0.1
    monkeypatch.setattr(marker, "seconds_starved", Clock(most=1.0))
    with watched.attempting(Attempt("finite_value"), 0.1):
        time.sleep(0.3)
        assert watched.late_by() < 0.0
