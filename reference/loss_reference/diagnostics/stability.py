"""Whether the losses of a run are stable."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Final

import torch
from torch import Tensor

__all__ = ["LossStabilityMonitor", "Stability"]

ENOUGH: Final = 10
NOISE_PER_STEP: Final = 2 / math.sqrt(math.pi)
"""Mean |x_t - x_{t-1}| of independent normal x with standard deviation 1."""


@dataclass(frozen=True)
class Stability:
    """The verdict on a run: true when it is stable, with the reason in words and the number it rests on."""

    stable: bool
    reason: str
    measure: float = 0.0

    def __bool__(self) -> bool:
        return self.stable


class LossStabilityMonitor:
    """Keeps the last losses of a run and says whether they are stable.

    ``mode="robust"`` looks at the whole window. With level = max(mean |x|, floor), a run is unstable when

    - a loss in the window is NaN or inf, from the first on;
    - it *rises*: (mean of the later half - mean of the earlier half) / level is above the threshold;
    - it *scatters*: mean |x_t - x_{t-1}| / (1.128 level) is above the threshold. For independent noise this is the coefficient
      of variation std / |mean|; steps instead of deviations, so that a smooth decay is no noise.

    ``mode="literal"`` is the guide's rule bit for bit: std / mean of the last 10 losses, below 0.5. It takes every run with
    a negative mean for stable, a constant 0 for unstable, a smooth growth for stable and a quick decay for unstable.

    Args:
        window_size: losses kept, at least 2. Fewer than 10 suffice for a verdict only if the window is that small.
        mode: ``"robust"`` or ``"literal"``.
        threshold: relative size above which a rise or a scatter counts, above 0.
        floor: losses are judged relative to at least this size; set it for a loss that fluctuates around 0, as policy gradient
            losses do.

    Raises:
        ValueError: an argument out of range.

    Source: the guide's LossStabilityMonitor; the scatter is the mean successive difference of quality control.
    """

    def __init__(
        self, window_size: int = 100, mode: str = "robust", threshold: float = 0.5, floor: float = 1e-8
    ) -> None:
        if mode not in ("robust", "literal"):
            raise ValueError(f"mode={mode!r}; expected 'robust' or 'literal'")
        least = 2 if mode == "robust" else 1
        if isinstance(window_size, bool) or not isinstance(window_size, int) or window_size < least:
            raise ValueError(f"window_size={window_size!r}; expected a whole number of at least {least}")
        if not threshold > 0 or not floor > 0:
            raise ValueError(f"threshold={threshold!r}, floor={floor!r}; expected numbers above 0")
        self.window_size, self.mode, self.threshold, self.floor = window_size, mode, threshold, floor
        self.loss_history: deque[float] = deque(maxlen=window_size)

    def update(self, loss: Tensor | float) -> None:
        """Take in the loss of one step, a tensor of one element or a number."""
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise ValueError(f"loss has shape {tuple(loss.shape)}; expected a tensor of one element or a number")
        self.loss_history.append(float(loss.detach() if isinstance(loss, Tensor) else loss))

    def check_stability(self) -> Stability:
        """Return the verdict on the losses so far."""
        return self._literal() if self.mode == "literal" else self._robust()

    def _robust(self) -> Stability:
        losses = list(self.loss_history)
        wrong = [loss for loss in losses if not math.isfinite(loss)]
        if wrong:
            return Stability(False, f"a loss in the window is {wrong[-1]}", wrong[-1])
        enough = min(ENOUGH, self.window_size)
        if len(losses) < enough:
            return Stability(True, f"too early to tell: {len(losses)} of {enough} losses")
        level = max(fmean(map(abs, losses)), self.floor)
        half = len(losses) // 2
        rise = (fmean(losses[-half:]) - fmean(losses[:half])) / level
        if rise > self.threshold:
            return Stability(False, f"rising: the later half is {rise:.0%} of the level above the earlier half", rise)
        steps = [abs(after - before) for before, after in pairwise(losses)]
        scatter = fmean(steps) / (NOISE_PER_STEP * level)
        if scatter > self.threshold:
            return Stability(False, f"scattering: the noise from step to step is {scatter:.0%} of the level", scatter)
        return Stability(True, f"steady: rise {rise:.0%}, scatter {scatter:.0%} of the level", scatter)

    def _literal(self) -> Stability:
        if len(self.loss_history) < 10:
            return Stability(True, f"too early to tell: {len(self.loss_history)} of 10 losses")
        recent = torch.tensor(list(self.loss_history)[-10:])
        cv = torch.std(recent) / torch.mean(recent)
        return Stability(bool(cv < 0.5), f"std / mean of the last 10 losses is {cv.item():.3g}", cv.item())
