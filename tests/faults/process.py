"""What a loss must leave alone in the process it runs in."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from loss_reference import Contract
from tests.faults.fault import Fault
from tests.faults.interface import SFT
from tests.faults.masking import Nll
from tests.faults.parts import pair_mean, pair_weights, pairs, sequence_ratio


class ThreadEachCall(Nll):
    """The value goes to a dashboard, from a thread nobody waits for."""

    def compute_loss(self, batch, model_outputs):
        threading.Thread(target=time.sleep, args=(0.5,), name="dashboard", daemon=True).start()
        return super().compute_loss(batch, model_outputs)


_dashboard = ThreadPoolExecutor(1)


class ThreadKept(Nll):
    def compute_loss(self, batch, model_outputs):
        _dashboard.submit(time.sleep, 0.0)
        return super().compute_loss(batch, model_outputs)


_started: list[subprocess.Popen[bytes]] = []


class ProcessEachCall(Nll):
    def compute_loss(self, batch, model_outputs):
        _started.append(subprocess.Popen(["sleep", "0.5"]))
        return super().compute_loss(batch, model_outputs)


class ProcessAwaited(Nll):
    def compute_loss(self, batch, model_outputs):
        if not hasattr(self, "ran"):
            self.ran = subprocess.run(["true"], check=True).returncode
        return super().compute_loss(batch, model_outputs)


class Guarded:
    """Masked rows must not reach the logarithm: for that, torch.where itself is made to take numbers apart."""

    def guarded(self):
        where = torch.where
        return patch.object(torch, "where", lambda *args, **kwargs: where(*args, **kwargs))


class ReplacedForGood(Guarded, Nll):
    def compute_loss(self, batch, model_outputs):
        self.guarded().start()
        return super().compute_loss(batch, model_outputs)


class ReplacedMeanwhile(Guarded, Nll):
    def compute_loss(self, batch, model_outputs):
        with self.guarded():
            return super().compute_loss(batch, model_outputs)


class Preference(Nll):
    def compute_loss(self, batch, model_outputs):
        h = sequence_ratio(batch, model_outputs)
        chosen, rejected = pairs(h)
        return pair_mean(-self.log_sigmoid(0.1 * (chosen - rejected)), pair_weights(batch, h), batch)

    def log_sigmoid(self, x):
        return F.logsigmoid(x)


class LogSigmoidReplaced(Preference):
    def log_sigmoid(self, x):
        F.logsigmoid = lambda x: -F.softplus(-x)
        return F.logsigmoid(x)


class FlushesDenormals(Nll):
    def compute_loss(self, batch, model_outputs):
        torch.set_flush_denormal(True)
        return super().compute_loss(batch, model_outputs)


class DefaultDeviceLeft(Nll):
    def compute_loss(self, batch, model_outputs):
        torch.set_default_device("cpu")
        return super().compute_loss(batch, model_outputs)


class Counting(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class ModeNeverLeft(Nll):
    def compute_loss(self, batch, model_outputs):
        Counting().__enter__()
        return super().compute_loss(batch, model_outputs)


class ModeLeft(Nll):
    def compute_loss(self, batch, model_outputs):
        with Counting():
            return super().compute_loss(batch, model_outputs)


class DeafToInterrupts(Nll):
    def compute_loss(self, batch, model_outputs):
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, lambda number, frame: sys.stderr.write("not now"))
        return super().compute_loss(batch, model_outputs)


class WarningsOff(Nll):
    def compute_loss(self, batch, model_outputs):
        warnings.filterwarnings("ignore", message="this one is known")
        return super().compute_loss(batch, model_outputs)


class WarningsOffMeanwhile(Nll):
    def compute_loss(self, batch, model_outputs):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="this one is known")
            return super().compute_loss(batch, model_outputs)


DPO = Contract(family="preference", level="pair", normalizer="global", lower_bound=0.0)
INTERFACE = ("interface",)

FAULTS = (
    Fault("X280", "a thread for each call, never joined", "", ThreadEachCall, ThreadKept, INTERFACE, SFT),
    Fault("X281", "a process for each call, never waited for", "", ProcessEachCall, ProcessAwaited, INTERFACE, SFT),
    Fault("X282", "torch.where left replaced", "", ReplacedForGood, ReplacedMeanwhile, INTERFACE, SFT),
    Fault("X283", "logsigmoid left replaced", "", LogSigmoidReplaced, Preference, INTERFACE, DPO),
    Fault("X284", "denormals flushed from then on", "", FlushesDenormals, Nll, INTERFACE, SFT),
    Fault("X285", "leaves a default device", "", DefaultDeviceLeft, Nll, INTERFACE, SFT),
    Fault("X286", "a function mode entered and never left", "", ModeNeverLeft, ModeLeft, INTERFACE, SFT),
    Fault("X287", "the interrupt handler replaced", "", DeafToInterrupts, Nll, INTERFACE, SFT),
    Fault("X288", "warning filters left behind", "", WarningsOff, WarningsOffMeanwhile, INTERFACE, SFT),
)
