"""The table of process-wide state beside random numbers: how each piece is read, and how it is put back."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy
import torch
from torch._tensor_str import PRINT_OPTS

from loss_conformance.torch_functions import functions_replaced

__all__ = ["FUNCTIONS", "NUMBERS_STAY_THE_SAME", "WATCHED"]


def _default_device() -> torch.device | None:
    # torch.get_default_device() creates a tensor there, which on an accelerator takes long.
    return getattr(getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None), "device", None)


def _pop_modes(wanted: tuple[int, int]) -> None:
    while torch._C._len_torch_function_stack() > wanted[0]:
        torch._C._pop_torch_function_stack()
    while torch._C._len_torch_dispatch_stack() > wanted[1]:
        torch._C._pop_torch_dispatch_stack(None)


_DENORMAL: Final = [5e-324]


def _signal_handlers() -> dict[str, Any]:
    return {number.name: signal.getsignal(number) for number in _SIGNALS}


def _handle_signals(handlers: dict[str, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for name, handler in handlers.items():
            signal.signal(signal.Signals[name], handler)


def _filter_warnings(filters: list[Any]) -> None:
    known: Any = warnings.filters
    known[:] = filters


def _log_through(how: tuple[int, int, tuple[logging.Handler, ...]]) -> None:
    logging.root.level, logging.root.manager.disable = how[0], how[1]
    logging.root.handlers[:] = how[2]


_SIGNALS: Final = [
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD") if name in signal.Signals.__members__
]
FUNCTIONS: Final = "functions of torch"
WATCHED: Final[dict[str, tuple[Callable[[], Any], Callable[[Any], object]]]] = {
    "torch default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch default device": (_default_device, torch.set_default_device),
    "torch grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch inference mode": (torch.is_inference_mode_enabled, lambda enabled: None),
    "torch anomaly mode": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "torch modes entered": (
        lambda: (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        _pop_modes,
    ),
    "torch thread count": (torch.get_num_threads, torch.set_num_threads),
    "torch deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch float32 matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch CPU autocast": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda enabled: torch.set_autocast_enabled("cpu", enabled),
    ),
    "torch flush denormal": (lambda: _DENORMAL[0] * 1.0 == 0.0, torch.set_flush_denormal),
    "cuDNN benchmark mode": (torch._C._get_cudnn_benchmark, torch._C._set_cudnn_benchmark),
    "cuDNN deterministic mode": (torch._C._get_cudnn_deterministic, torch._C._set_cudnn_deterministic),
    "working directory": (os.getcwd, os.chdir),
    FUNCTIONS: (functions_replaced, lambda replaced: None),
    "signal handlers": (_signal_handlers, _handle_signals),
    "numpy error handling": (numpy.geterr, lambda how: numpy.seterr(**how)),
    "torch print options": (lambda: dict(vars(PRINT_OPTS)), vars(PRINT_OPTS).update),
    "warning filters": (lambda: list(warnings.filters), _filter_warnings),
    "garbage collection": (gc.isenabled, lambda enabled: gc.enable() if enabled else gc.disable()),
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "logging": (
        lambda: (logging.root.level, logging.root.manager.disable, tuple(logging.root.handlers)),
        _log_through,
    ),
}
"""Each piece by name: how to read it, and how to put it back."""

NUMBERS_STAY_THE_SAME: Final = frozenset(list(WATCHED)[list(WATCHED).index("torch print options") :])
"""The pieces no number of a training run depends on."""
