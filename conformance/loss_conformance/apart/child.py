"""The child's side: it makes the engine, and answers until nobody asks any more."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import pickle
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final, NoReturn

import torch

from loss_conformance.apart.marker import Marker
from loss_conformance.engine import Engine

__all__ = ["GAVE", "RAISED", "UNFIT", "serve"]

GAVE, RAISED, UNFIT = "gave", "raised", "unfit"
_PR_SET_PDEATHSIG: Final = 1


def serve(make: Callable[[], Engine], asked: Connection, marker: Marker, trace: int, parent: int) -> NoReturn:
    """Answer ``asked`` with what the methods of the engine return or raise; never returns to the frames it was called from.

    Args:
        make: makes the engine, which loads the loss.
        marker: told what is being attempted.
        trace: file that gets the stack when the process dies of a signal or leaves through ``os._exit``.
        parent: process to die with.
    """
    leave, own = os._exit, os.getpid()
    try:
        _settle_in(trace, parent)
        reason = _unfit()
        asked.send((UNFIT, reason) if reason else (GAVE, None))
        engine: Any = None
        while True:
            method, arguments = asked.recv()
            try:
                if engine is None:
                    engine = make()
                    engine.watch = marker.attempting
                answer = (GAVE, getattr(engine, method)(*arguments))
            except BaseException as error:
                answer = (RAISED, _sendable(error))
            if os.getpid() != own:
                break  # the loss forked, and this is its copy of us
            asked.send(answer)
    except (EOFError, OSError):
        pass
    finally:
        leave(0)


def _settle_in(trace: int, parent: int) -> None:
    gc.freeze()  # what the parent made stays shared: a collection would write to all of it
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    if threading.current_thread() is threading.main_thread():
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's interrupt is for the parent, which ends us
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # should memory run out, this process goes first
    _silence()
    faulthandler.enable(trace, all_threads=False)
    _trace_exits(trace)
    torch.set_num_threads(1)


def _silence() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    sys.stdin, sys.stdout, sys.stderr = (open(os.devnull, mode) for mode in ("r", "w", "w"))  # noqa: SIM115


def _trace_exits(trace: int) -> None:
    leave, own = os._exit, os.getpid()

    def _exit(status: int) -> NoReturn:
        if os.getpid() == own:
            faulthandler.dump_traceback(trace, all_threads=False)
        leave(status)

    os._exit = _exit


def _unfit() -> str:
    """Return why torch cannot work in this child, such as threads of its own the parent had started."""
    try:
        x = torch.ones(2, requires_grad=True)
        torch.autograd.grad((x * x).sum(), x)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _sendable(error: BaseException) -> BaseException:
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:
        again = None
    if type(again) is not type(error) or not isinstance(error, Exception):
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note("in the child:\n" + "".join(traceback.format_exception(error)))
    return error
