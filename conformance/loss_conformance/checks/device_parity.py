"""Device parity: the same numbers on an accelerator, and no tensor left behind on the CPU."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import torch

from loss_conformance.checks.registry import check
from loss_conformance.device.real import real_device
from loss_conformance.device.simulated import DeviceMixed, SimulatedDevice
from loss_conformance.evaluation import LossRaised
from loss_conformance.subject.source_code import nodes_of
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["device_agreement"]

DEVICE: Final = re.compile(r"(.*_)?(device|(use_)?(gpu|cuda))", re.IGNORECASE)
"""What a setting is called that says where tensors are made."""


@check(
    group="device_parity",
    statement="On an accelerator L and its gradient are those on the CPU, and no CPU tensor meets one of the device.",
    over=("typical", "full", "bare", "absent_rows"),
    why="A loss that builds a tensor without device= works on the laptop and crashes on the first GPU.",
    cause="torch.zeros, ones, arange or tensor without device=, a buffer kept outside the module, or .cpu().",
    fix="Pass device=x.device, use x.new_zeros and torch.zeros_like, or register_buffer.",
    seen_in="pytorch/pytorch#108148",
    own_batch=True,
)
def device_agreement(trial: Trial) -> None:
    device = real_device(trial.bench.device)
    if device is not None:
        _on_real_device(trial, device)
    else:
        _on_simulated_device(trial)


def _chooses_its_device(trial: Trial) -> bool:
    """Return whether the loss asks for CUDA itself, or is told: then it may be right there, and a simulation cannot tell."""
    subject = trial.bench.subject
    asks = any(getattr(node, "attr", "") == "is_available" for node in nodes_of(subject.loss) or [])
    told = (
        any(DEVICE.fullmatch(name) for name in (*subject.settings, *vars(subject.loss)))
        if hasattr(subject.loss, "__dict__")
        else False
    )
    return trial.foreign and (asks or told)


def _on_real_device(trial: Trial, device: torch.device) -> None:
    wanted = trial.finite_base
    got = trial.bench.caller.evaluate_on(trial.case, device)
    if got.value.device.type != device.type:
        raise Broken(f"a loss on {got.value.device}", f"a loss on {device}")
    moved = {key: gradient.cpu() for key, gradient in got.gradients.items()}
    change = f"every input moved to {device}"
    trial.require_same(replace(got, value=got.value.cpu(), gradients=moved, parameters={}), wanted, change)


def _on_simulated_device(trial: Trial) -> None:
    wanted = trial.finite_base
    with SimulatedDevice() as device:
        try:
            got = trial.bench.caller.evaluate_simulated(trial.case, device)
        except LossRaised as raised:
            if isinstance(raised.error, DeviceMixed):
                raise Broken(
                    str(raised.error),
                    "every tensor on the device of the inputs",
                    changed="every input moved to a simulated device",
                    traceback=raised.traceback,
                    guessed=_chooses_its_device(trial),
                ) from None
            # The same case ran on the CPU: what else goes wrong is the simulation's shortcoming.
            raise NotExercised(f"the simulated device cannot run it: {raised}") from None
    trial.require_same(got, wanted, "every input moved to a simulated device")
