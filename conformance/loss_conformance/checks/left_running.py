"""Nothing goes on behind a loss's back: no thread, no process."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

from loss_conformance.checks.registry import check
from loss_conformance.trial import Broken, Trial

__all__ = ["nothing_left_running"]

CALLS: Final = 3
"""Calls after the first that must each leave something: a pool started once is legal."""

PATIENCE: Final = 0.1
"""Seconds that what a call started gets to end after it."""


@check(
    group="interface",
    statement="Calling L again and again leaves no further thread or process running each time.",
    why="A training run calls the loss millions of times; what each call leaves behind adds up until nothing can be started.",
    cause="a thread, a pool or a subprocess that is started in compute_loss and never joined.",
    fix="Start one pool in the constructor and use it again, or end it in the call: with ThreadPoolExecutor() as pool.",
    own_batch=True,
)
def nothing_left_running(trial: Trial) -> None:
    trial.evaluate(trial.case)
    for _ in range(CALLS):
        before = _running()
        trial.evaluate(trial.case)
        left = _still_running(before)
        if not left:
            return
    raise Broken(f"each call leaves running: {', '.join(left)}", "nothing left")


def _still_running(before: dict[str, str]) -> list[str]:
    until = time.monotonic() + PATIENCE
    while True:
        left = [said for key, said in _running().items() if key not in before]
        if not left or time.monotonic() > until:
            return left
        time.sleep(PATIENCE / 10)


def _running() -> dict[str, str]:
    """Return the threads and child processes of this process, in words, each under a key of its own."""
    threads = {f"thread {thread.native_id}": f"thread {thread.name!r}" for thread in threading.enumerate()}
    try:
        native = {f"thread {number}": "a thread" for number in os.listdir("/proc/self/task")}
        children = {f"process {number}": f"process {name!r}" for number, name in _children()}
    except OSError:  # no such table here
        return threads
    return {**native, **{key: said for key, said in threads.items() if key in native}, **children}


def _children() -> list[tuple[str, str]]:
    """Return number and name of the running processes this one started, as far as the kernel tells."""
    found = []
    for thread in os.listdir("/proc/self/task"):
        for number in _text(f"/proc/self/task/{thread}/children").split():
            name, _, rest = _text(f"/proc/{number}/stat").partition(" (")[2].rpartition(") ")
            if rest and not rest.startswith("Z"):
                found.append((number, name))
    return found


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:  # it ended meanwhile
        return ""
