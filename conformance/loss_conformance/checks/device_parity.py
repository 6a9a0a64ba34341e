"""Device parity: the same numbers on an accelerator, and no tensor left behind on the CPU."""

from __future__ import annotations

from dataclasses import replace

import torch

from loss_conformance.checks.registry import check
from loss_conformance.device.real import real_device
from loss_conformance.device.simulated import DeviceMixed, SimulatedDevice
from loss_conformance.evaluation import LossRaised
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["device_agreement"]


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
                ) from None
            # The same case ran on the CPU: what else goes wrong is the simulation's shortcoming.
            raise NotExercised(f"the simulated device cannot run it: {raised}") from None
    trial.require_same(got, wanted, "every input moved to a simulated device")
