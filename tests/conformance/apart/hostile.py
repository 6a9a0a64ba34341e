"""Losses that end their process, or cannot be stopped, when no token is trained on; else a correct token mean."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import threading
import time

import torch
import torch.nn.functional as F

from tests.conformance.engine.misbehaving import TokenMean


class WhenEmpty(TokenMean):
    def spoiled(self, value, mask):
        if not mask.any():
            self.harm()
        return value

    def harm(self):
        pass


class Aborts(WhenEmpty):
    def harm(self):
        os.abort()


class Leaves(WhenEmpty):
    def harm(self):
        os._exit(0)


class Crashes(WhenEmpty):
    def harm(self):
        ctypes.string_at(0)


class IsKilled(WhenEmpty):
    def harm(self):
        os.kill(os.getpid(), signal.SIGKILL)


class ClosesEverything(WhenEmpty):
    def harm(self):
        os.closerange(3, 4096)


class DeafToTime(WhenEmpty):
    def harm(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        while True:
            time.sleep(1)


class SwallowsTime(WhenEmpty):
    def harm(self):
        while True:
            try:
                time.sleep(1)
            except BaseException:
                continue


class InterruptsItself(WhenEmpty):
    def harm(self):
        raise KeyboardInterrupt


class Forks(WhenEmpty):
    """Comes back twice."""

    def harm(self):
        os.fork()


class AbortsAtOnce(TokenMean):
    def spoiled(self, value, mask):
        os.abort()


class AbortsWhenMade(TokenMean):
    def __init__(self, config=None):
        super().__init__(config)
        os.abort()


class AbortsWithoutCounts(TokenMean):
    """On the first case of some checks, but not on the first call."""

    def compute_loss(self, batch, model_outputs):
        if "global_valid_toks" not in batch and batch["token_mask"].dtype is torch.float64:
            os.abort()
        return super().compute_loss(batch, model_outputs)


class ChangesEverything(TokenMean):
    """What a process has, changed where nothing can be put back."""

    def __init__(self, config=None):
        super().__init__(config)
        F.logsigmoid = torch.tanh
        torch.nn.functional.relu = torch.tanh
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_grad_enabled(False)
        os.environ["HOSTILE"] = "1"
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=time.sleep, args=(60,), name="hostile").start()
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
        self.process = subprocess.Popen(["sleep", "61.5"]).pid
        torch.set_default_device(None)


class Floods(TokenMean):
    def spoiled(self, value, mask):
        for _ in range(100):
            print("x" * 10_000)
            os.write(1, b"y" * 10_000)
            os.write(2, b"z" * 10_000)
        return value


class Sound(TokenMean):
    pass
