"""Ranks as processes: two of them, a gloo group over a file, the loss sent to both."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from loss_conformance.caller import Caller
from loss_conformance.cases.case import Case
from loss_conformance.evaluation import Evaluation
from loss_conformance.ranks.threads import WORLD, RankWaits, Unsimulated
from loss_conformance.starvation import waiting_for
from loss_conformance.subject.subject import Subject

__all__ = ["RankRaised", "evaluate_in_processes"]

SECONDS_OF_A_COLLECTIVE: Final = 15
SECONDS_OF_A_RANK: Final = 75
START: Final = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from loss_conformance.ranks.processes import answer
answer(*sys.argv[2:])
"""


class RankRaised(Exception):
    """A rank raised; the message says what."""


def evaluate_in_processes(caller: Caller, losses: Sequence[Any], shares: Sequence[Case]) -> list[Evaluation]:
    """Return what each rank, a process of its own, gives on its share.

    Raises:
        Unsimulated: the loss cannot be sent to another process, or no group came about.
        RankWaits: a collective was not joined by every rank in time.
        RankRaised: the loss raised on a rank.
    """
    with tempfile.TemporaryDirectory() as folder:
        for rank, (loss, share) in enumerate(zip(losses, shares, strict=True)):
            # How to make another one is often a closure, which cannot be sent.
            alone = replace(caller.subject, loss=loss, rebuild=None, settings={}, contract=None)
            try:
                parcel = pickle.dumps((alone, caller.contract, caller.seed, share))
            except Exception as error:
                raise Unsimulated(f"the loss cannot be sent to another process: {error}") from None
            Path(folder, f"{rank}.in").write_bytes(parcel)
        path = json.dumps([*_roots(caller.subject.loss), os.getcwd(), *sys.path])
        started = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", START, path, folder, str(rank)],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for rank in range(WORLD)
        ]
        try:
            with waiting_for([process.pid for process in started]):
                for process in started:
                    process.wait(SECONDS_OF_A_RANK)
        except subprocess.TimeoutExpired:
            raise Unsimulated(f"a rank gave no answer within {SECONDS_OF_A_RANK} s") from None
        finally:
            for process in started:
                process.kill()
                process.wait()
        return _results(Path(folder))


def _results(folder: Path) -> list[Evaluation]:
    answers = []
    for rank in range(WORLD):
        answer = folder / f"{rank}.out"
        if not answer.exists():
            raise Unsimulated(f"rank {rank} ended without an answer")
        answers.append(pickle.loads(answer.read_bytes()))
    failures = [said for kind, said in answers if kind == "raised"]
    waits = [said for said in failures if "timed out" in said.lower() or "connection closed" in said.lower()]
    if len(failures) > len(waits):
        raise RankRaised(next(said for said in failures if said not in waits))
    if waits:
        raise RankWaits(f"a rank waits in a collective that another one never joins ({waits[0][:80]})")
    for kind, said in answers:
        if kind == "unfit":
            raise Unsimulated(said)
    return [evaluation for _, evaluation in answers]


def _roots(loss: Any) -> list[str]:
    """Return the folder the module of the loss is imported from; it is on the path only while the user's code is loaded."""
    made_of = loss if hasattr(loss, "__module__") and hasattr(loss, "__qualname__") else type(loss)
    module = sys.modules.get(made_of.__module__)
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return []
    deep = module.__name__.count(".") + (os.path.basename(file) == "__init__.py")
    return [str(Path(file).resolve().parents[deep])]


def answer(folder: str, rank: str) -> None:
    """Evaluate the share of one rank: what each of the processes runs."""
    outcome: tuple[str, Any]
    try:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        subject, contract, seed, share = pickle.loads(Path(folder, f"{rank}.in").read_bytes())
        _join(dist, folder, int(rank))
    except Exception as error:
        outcome = "unfit", f"{type(error).__name__}: {error}"
    else:
        outcome = _answer(subject, contract, seed, share)
    # Beside it first: a file that is there is complete.
    unfinished = Path(folder, f"{rank}.part")
    unfinished.write_bytes(pickle.dumps(outcome))
    unfinished.rename(Path(folder, f"{rank}.out"))


def _join(dist: Any, folder: str, rank: int) -> None:
    from datetime import timedelta

    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=SECONDS_OF_A_COLLECTIVE),
    )


def _answer(subject: Subject, contract: Any, seed: int, share: Case) -> tuple[str, Any]:
    try:
        return "gave", replace(Caller(subject, contract, seed).evaluate(share), metrics={})
    except Exception as error:
        return "raised", f"{type(error).__name__}: {error}"
