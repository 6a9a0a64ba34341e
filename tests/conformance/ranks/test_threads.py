"""Ranks that are threads: collectives work between them, and none waits for ever."""

import threading
import time

import pytest
import torch
import torch.distributed as dist

from loss_conformance.ranks.asked import distributed_calls
from loss_conformance.ranks.threads import RankWaits, Unsimulated, on_every_rank


def test_each_rank_knows_itself_and_the_others() -> None:
    assert on_every_rank(lambda rank: (rank, dist.get_rank(), dist.get_world_size())) == [(0, 0, 2), (1, 1, 2)]
    assert not dist.is_initialized()


def test_numbers_are_reduced_and_gathered() -> None:
    def work(rank: int) -> tuple[float, list[float]]:
        x = torch.tensor(float(rank + 1))
        parts = [torch.zeros(()), torch.zeros(())]
        dist.all_gather(parts, x)
        dist.all_reduce(x)
        return float(x), [float(part) for part in parts]

    assert on_every_rank(work) == [(3.0, [1.0, 2.0])] * 2


def test_numbers_are_sent_from_rank_to_rank() -> None:
    def work(rank: int) -> float:
        received = torch.zeros(1)
        sent = dist.isend(torch.tensor([10.0 + rank]), 1 - rank)
        dist.recv(received, 1 - rank)
        sent.wait()
        return float(received)

    assert on_every_rank(work) == [11.0, 10.0]


def test_a_number_is_reduced_to_one_rank() -> None:
    def work(rank: int) -> float:
        x = torch.tensor(float(rank + 1))
        dist.reduce(x, 0)
        return float(x)

    assert on_every_rank(work)[0] == 3.0


@pytest.mark.parametrize(
    ("work", "who"),
    [
        (lambda rank: dist.all_reduce(torch.ones(1)) if rank else None, "rank 1 waits .* rank 0 never joins"),
        (lambda rank: dist.recv(torch.ones(1), 1 - rank), "every rank waits"),
    ],
    ids=["one", "both"],
)
def test_a_collective_nobody_joins_is_told_in_seconds(work, who) -> None:
    started = time.monotonic()
    with pytest.raises(RankWaits, match=who):
        on_every_rank(work)
    assert time.monotonic() - started < 8
    assert not any(thread.daemon and thread.is_alive() for thread in threading.enumerate())
    assert on_every_rank(lambda rank: rank) == [0, 1]


def test_what_one_rank_raises_is_raised_while_the_other_waits() -> None:
    def work(rank: int) -> None:
        if rank:
            raise ValueError("no labels here")
        dist.all_reduce(torch.ones(1))

    with pytest.raises(ValueError, match="no labels here"):
        on_every_rank(work)


def test_a_process_in_a_group_of_its_own_is_left_alone(tmp_path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(Unsimulated):
            on_every_rank(lambda rank: rank)
    finally:
        dist.destroy_process_group()


def test_questions_are_seen_whatever_they_were_imported_as() -> None:
    from torch.distributed import is_initialized as asked_directly

    with distributed_calls() as names:
        asked_directly()
    assert "is_initialized" in names
    with distributed_calls() as names:
        torch.nn.functional.cross_entropy(torch.randn(2, 3), torch.tensor([0, 1]))
    assert names == set()
