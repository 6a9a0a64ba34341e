"""Running someone else's code within bounds: time, memory, exits, output and global state."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from types import FrameType
from typing import Final

import torch

from loss_conformance.global_state import restart_random_numbers, restored_global_state
from loss_conformance.starvation import seconds_starved

__all__ = ["MEMORY_BUDGET", "ForeignExit", "Limited", "TimeLimit", "contained", "out_of_memory", "sheltered"]

Limited = Callable[[float], contextlib.AbstractContextManager[None]]
"""Runs one attempt within so many seconds."""

MEMORY_BUDGET: Final = 4 * 1024**3
"""Bytes of address space a check may add to what the process holds already."""
SHORTEST_EXTENSION: Final = 0.05
"""Seconds of waiting for a processor that are worth another look at the clock."""


class TimeLimit(BaseException):
    """The time limit of a check ran out. Not an ``Exception``, so that a loss's own ``except`` cannot swallow it."""


class ForeignExit(Exception):
    """The loss tried to end the process."""


@contextlib.contextmanager
def contained(seconds: float, seed: int = 0) -> Iterator[None]:
    """Run the body as one attempt of its own: ``sheltered``, and within ``seconds``.

    Raises:
        TimeLimit: it took longer.
        ForeignExit: it called ``sys.exit``, or raised what is no ``Exception``.
    """
    with sheltered(seed) as limited, limited(seconds):
        yield


@contextlib.contextmanager
def sheltered(seed: int = 0) -> Iterator[Limited]:
    """Run the body within ``MEMORY_BUDGET``, its output and warnings kept away from the user's terminal.

    Global state (random generators, default dtype, grad mode, thread count, working directory, ...) is put back.

    Yields what runs one attempt after the other within so many seconds, those in which it waits for a processor that
    others hold not counted. Random numbers start at ``seed`` in each, and state is put back after each: what a loss draws
    and does depends on nothing that ran before. It raises ``TimeLimit`` and ``ForeignExit``, as ``contained`` does.
    """
    with (
        open(os.devnull, "w") as silent,
        contextlib.redirect_stdout(silent),
        contextlib.redirect_stderr(silent),
        _no_warnings(),
        _one_thread(),
        restored_global_state() as put_back,
        _bounded_memory(),
    ):

        @contextlib.contextmanager
        def limited(seconds: float) -> Iterator[None]:
            restart_random_numbers(seed)
            try:
                with _bounded_time(seconds), _no_exit():
                    yield
            finally:
                put_back()

        yield limited


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    # Cases are tiny: a second thread only waits, and waits busily when other workers want its core.
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


@contextlib.contextmanager
def _no_exit() -> Iterator[None]:
    try:
        yield
    except SystemExit as request:
        raise ForeignExit(f"it called sys.exit({request.code!r})") from request
    except (Exception, TimeLimit):
        raise
    except BaseException as other:
        if isinstance(other, KeyboardInterrupt) and not _nobody_interrupts():
            raise
        raise ForeignExit(f"it raised {type(other).__name__}, which ends a program") from other


def out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that memory ran out."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error)


@contextlib.contextmanager
def _bounded_time(seconds: float) -> Iterator[None]:
    # A signal interrupts Python code that hangs; it needs the main thread and a platform that has it.
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    excused = seconds_starved()

    def ring(signum: int, frame: FrameType | None) -> None:
        nonlocal excused
        starved = seconds_starved()
        if starved - excused > SHORTEST_EXTENSION:
            signal.setitimer(signal.ITIMER_REAL, starved - excused, 1.0)
            excused = starved
            return
        raise TimeLimit(f"no answer within {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, ring)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if remaining:
            signal.setitimer(signal.ITIMER_REAL, remaining, interval)


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    try:
        import resource

        with open("/proc/self/statm") as statm:
            held = int(statm.read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, OSError):
        yield
        return
    limit = held + MEMORY_BUDGET
    if (soft != resource.RLIM_INFINITY and soft <= limit) or accelerator_here():
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _nobody_interrupts() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@cache
def accelerator_here() -> bool:
    # A driver reserves terabytes of address space when it starts, which a limit on it would forbid.
    return torch.accelerator.is_available()
