"""Whole processes: how long one takes and how much memory it needs at its peak."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Run:
    """Wall-clock seconds and peak memory in MiB of one finished process."""

    seconds: float
    mebibytes: float


def run(arguments: Sequence[str], directory: Path, expected: int = 0) -> Run:
    """Run ``python ARGUMENTS`` in ``directory`` and measure it; raise when it does not end with ``expected``."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode != expected:
        raise RuntimeError(f"{arguments} ended with {process.returncode}:\n{output.decode()}")
    return Run(seconds, usage.ru_maxrss / 1024)


def in_turn(one: Sequence[str], other: Sequence[str], directory: Path, pairs: int) -> tuple[list[Run], list[Run]]:
    """Run two commands in turn, after one warm-up each, so that a drift of the machine's speed hits both."""
    run(one, directory), run(other, directory)
    measured = [(run(one, directory), run(other, directory)) for _ in range(pairs)]
    return [a for a, _ in measured], [b for _, b in measured]


def median_seconds(runs: Sequence[Run]) -> float:
    """Return the median wall clock."""
    return median(run.seconds for run in runs)
