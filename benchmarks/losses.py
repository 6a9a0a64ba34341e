"""What training with a loss costs: seconds of forward and backward, and peak memory, beside the plain eager formulation.

``python -m benchmarks.losses`` measures every formulation in processes of its own, in turn, at B S = 4096 tokens and
V = 32768. Memory counts from before the logits exist to the peak. Peers are measured where their package is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

ROWS, TOKENS, VOCABULARY = 8, 512, 32768
TURNS, STEPS = 3, 4
DTYPES = ("float32", "bfloat16")
LOSSES = ("nll", "dpo", "grpo", "forward_kl")
PEERS = {"nll": ("torch", "torchtune"), "dpo": ("trl",), "grpo": ("trl",), "forward_kl": ("torchtune",)}


def formulations(loss: str) -> list[str]:
    """Return the formulations of a loss that can be measured here; the plain one comes first."""
    return ["plain", "reference", *(peer for peer in PEERS.get(loss, ()) if find_spec(peer))]


def measured(loss: str, dtype: str, formulation: str) -> dict[str, float]:
    """Return seconds per step and peak MiB of one formulation, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.losses", loss, dtype, formulation]
    finished = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {finished.returncode}:\n{finished.stderr}")
    figures: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return figures


def main() -> None:
    print("| loss | logits | formulation | seconds per step | times plain | peak MiB | of plain |")
    print("|---|---|---|---|---|---|---|")
    for loss in LOSSES:
        for dtype in DTYPES:
            names = formulations(loss)
            runs = [{name: measured(loss, dtype, name) for name in names} for _ in range(TURNS)]
            for name in names:
                seconds = median(run[name]["seconds"] for run in runs)
                slower = median(run[name]["seconds"] / run["plain"]["seconds"] for run in runs)
                mebibytes = median(run[name]["mebibytes"] for run in runs)
                more = median(run[name]["mebibytes"] / run["plain"]["mebibytes"] for run in runs)
                print(
                    f"| {loss} | {dtype} | {name} | {seconds:.2f} | {slower:.2f} | {mebibytes:.0f} | {more:.0%} |",
                    flush=True,
                )


def one(loss: str, dtype: str, formulation: str) -> None:
    """Measure one formulation in this process and print the figures."""
    import torch

    from benchmarks.formulations import FORMULATIONS
    from loss_reference import ModelOutputs

    step = FORMULATIONS[loss, formulation]
    batch = ordinary_batch(getattr(torch, dtype), loss)
    before = memory("VmRSS")
    logits = torch.randn(ROWS, TOKENS, VOCABULARY).to(getattr(torch, dtype)).requires_grad_()
    seconds = []
    for _ in range(STEPS):
        logits.grad = None
        started = time.perf_counter()
        step(batch, ModelOutputs(logits=logits)).backward()
        seconds.append(time.perf_counter() - started)
    # The first step pays for what is set up once per process.
    print(json.dumps({"seconds": median(seconds[1:]), "mebibytes": memory("VmHWM") - before}))


def ordinary_batch(dtype: Any, loss: str) -> dict[str, Any]:
    """Return a batch with every field the measured losses read; a fifth of the tokens is not trained on."""
    import torch

    torch.manual_seed(0)
    logprobs = -torch.rand(4, ROWS, TOKENS) * 12
    batch = {
        "input_ids": torch.randint(VOCABULARY, (ROWS, TOKENS)),
        "token_mask": (torch.rand(ROWS, TOKENS) < 0.8).float(),
        "reference_policy_logprobs": logprobs[0],
        "prev_logprobs": logprobs[1],
        "advantages": torch.randn(ROWS, TOKENS),
    }
    if loss == "forward_kl":
        batch["teacher_logits"] = torch.randn(ROWS, TOKENS, VOCABULARY).to(dtype)
    return batch


def memory(line: str) -> float:
    """Return a line of /proc/self/status in MiB: ``VmRSS`` is what is held now, ``VmHWM`` the most ever."""
    status = dict(entry.split(":", 1) for entry in Path("/proc/self/status").read_text().splitlines())
    return int(status[line].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(one(*sys.argv[1:]) if len(sys.argv) > 1 else main())
