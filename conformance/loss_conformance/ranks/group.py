"""The process group behind ranks that are threads. Imported when a loss asks for one; private to torch's own tests."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor

__all__ = ["BACKEND", "threaded_world"]

# Without annotations of their own.
dist: Any = importlib.import_module("torch.distributed")
threaded: Any = importlib.import_module("torch.testing._internal.distributed.multi_threaded_pg")
bindings: Any = importlib.import_module("torch._C._distributed_c10d")

BACKEND: Final = "loss_conformance_threads"


class ThreadGroup(threaded.ProcessLocalGroup):  # type: ignore[misc]
    """Torch's group of threads, with the sending and receiving it lacks."""

    _mail: dict[tuple[int, int, int], list[Tensor]] = {}  # noqa: RUF012 - shared by all ranks, as the rest of the group
    _arrived = threading.Condition()

    def send(self, tensors: list[Tensor], destination: int, tag: int = 0) -> Any:
        with ThreadGroup._arrived:
            box = ThreadGroup._mail.setdefault((self.rank(), destination, tag), [])
            box.extend(tensor.detach().clone() for tensor in tensors)
            ThreadGroup._arrived.notify_all()
        return threaded.ret_work(tensors)

    def recv(self, tensors: list[Tensor], source: int, tag: int = 0) -> Any:
        return _Receipt(self, tensors, source, tag)

    def reduce(self, tensors: list[Tensor], options: Any = None) -> Any:
        # Every rank gets what only the root is promised.
        reduced = [tensor.detach().clone() for tensor in tensors]
        every = dist.AllreduceOptions()
        every.reduceOp = options.reduceOp
        self.allreduce(reduced, every)
        if options.rootRank == self.rank():
            for tensor, result in zip(tensors, reduced, strict=True):
                tensor.detach().copy_(result)
        return threaded.ret_work(tensors)


class _Receipt:
    """A number on its way: it is there once somebody waits for it."""

    def __init__(self, group: ThreadGroup, tensors: list[Tensor], source: int, tag: int) -> None:
        self.key = source, group.rank(), tag
        self.tensors = tensors

    def wait(self, timeout: Any = None) -> bool:
        box = ThreadGroup._mail
        for tensor in self.tensors:
            with ThreadGroup._arrived:
                ThreadGroup._arrived.wait_for(lambda: box.get(self.key) or ThreadGroup._terminate.is_set())
                if ThreadGroup._terminate.is_set():
                    sys.exit("the other rank is gone")
                with torch.no_grad():
                    tensor.detach().copy_(box[self.key].pop(0))
        return True

    def is_completed(self) -> bool:
        return bool(ThreadGroup._mail.get(self.key))


def _create(store: Any, rank: int, size: int, timeout: Any) -> Any:
    dist.distributed_c10d._store_based_barrier(rank, store, "", size, timeout)
    return ThreadGroup(rank, size)


if BACKEND not in dist.Backend.backend_list:
    dist.Backend.register_backend(BACKEND, _create, devices=["cpu"])


@contextlib.contextmanager
def threaded_world() -> Iterator[tuple[Any, Callable[[], None], Callable[[int], bool]]]:
    """Give every thread a default group of its own; yield its store, what lets all waiting ranks go,
    and what tells whether a thread waits."""

    def release() -> None:
        threaded.ProcessLocalGroup.exception_handle(None)
        with ThreadGroup._arrived:
            ThreadGroup._arrived.notify_all()

    bindings._set_thread_isolation_mode(True)
    threaded._install_threaded_pg()
    threaded.ProcessLocalGroup.reset()
    ThreadGroup._mail.clear()
    try:
        yield dist.HashStore(), release, _in_group
    finally:
        threaded.ProcessLocalGroup.reset()
        threaded._uninstall_threaded_pg()
        bindings._set_thread_isolation_mode(False)


def _in_group(thread: int) -> bool:
    """Return whether a thread is inside a collective."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_filename in (threaded.__file__, __file__):
            return True
        frame = frame.f_back
    return False
