"""Ranks as threads of this process, with collectives that work between them and never wait for ever.

The group is the one torch tests its own distributed code with: whatever a loss calls, by whatever name it imported it,
finds a default group whose rank is that of the thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import torch.distributed as dist

__all__ = ["WORLD", "RankWaits", "Unsimulated", "on_every_rank"]

T = TypeVar("T")

WORLD: Final = 2
GRACE: Final = 2.0
"""Seconds without a rank that does anything but wait: a collective of a few numbers takes none of them."""
PATIENCE: Final = 10.0
"""Seconds in which the ranks must be done."""


class RankWaits(Exception):
    """A rank waits in a collective that the others never join."""


class Unsimulated(Exception):
    """The ranks cannot be simulated here, or not what the loss asked of them."""


def on_every_rank(work: Callable[[int], T]) -> list[T]:
    """Run ``work(rank)`` on every rank of a group of ``WORLD`` and return the results in order of rank.

    Raises:
        RankWaits: a collective is not joined by every rank.
        Unsimulated: torch offers no such group, or one exists already.
        Exception: what ``work`` raised on the first rank that raised.
    """
    if dist.is_available() and dist.is_initialized():
        raise Unsimulated("this process belongs to a group already")
    try:
        from loss_conformance.ranks.group import BACKEND, threaded_world
    except (ImportError, AttributeError) as error:
        raise Unsimulated(f"this torch has no group of threads: {error}") from None
    ranks = [_Rank(rank, work) for rank in range(WORLD)]
    with threaded_world() as (store, release, inside):
        for rank in ranks:
            rank.start(partial(dist.init_process_group, BACKEND, world_size=WORLD, store=store))
        try:
            waiting = _wait(ranks, inside)
        finally:
            release()
            for rank in ranks:
                rank.thread.join(GRACE)
    for rank in ranks:
        if isinstance(rank.error, Exception):
            raise rank.error
    if waiting:
        raise RankWaits(waiting)
    return [rank.result for rank in ranks]


class _Rank:
    """One rank: its thread, and what came of it."""

    def __init__(self, number: int, work: Callable[[int], Any]) -> None:
        self.number = number
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None

    def start(self, join: Callable[..., None]) -> None:
        # A daemon: a rank that hangs in the loss itself must not keep the process alive.
        self.thread = threading.Thread(target=self._run, args=(join,), daemon=True)
        self.thread.start()

    def _run(self, join: Callable[..., None]) -> None:
        try:
            join(rank=self.number)
            try:
                self.result = self.work(self.number)
            finally:
                dist.destroy_process_group()
        except BaseException as error:
            self.error = error


def _wait(ranks: list[_Rank], inside: Callable[[int], bool]) -> str:
    """Return once every rank has returned, or one has raised; else who waits for whom, in words."""
    started = time.monotonic()
    stuck_since = started
    while True:
        alive = [rank for rank in ranks if rank.thread.is_alive()]
        if not alive or any(rank.error is not None for rank in ranks):
            return ""
        alive[0].thread.join(0.02)
        now = time.monotonic()
        if not _all_inside(alive, inside):
            stuck_since = now
        if now - stuck_since > GRACE:
            back = [rank for rank in ranks if rank not in alive]
            if not back:
                return "every rank waits, each in another collective"
            return f"rank {alive[0].number} waits in a collective that rank {back[0].number} never joins"
        if now - started > PATIENCE:
            raise Unsimulated(f"the ranks gave no answer within {PATIENCE:g} s")


def _all_inside(ranks: list[_Rank], inside: Callable[[int], bool]) -> bool:
    return all(rank.thread.ident is not None and inside(rank.thread.ident) for rank in ranks)
