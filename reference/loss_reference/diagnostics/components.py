"""The parts of a loss, as numbers."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.composite.combine import split_result
from loss_reference.interface import Batch, Outputs

__all__ = ["debug_loss_components"]

GUIDE_METHODS: Final = {"dpo": "compute_dpo_loss", "sft": "compute_sft_loss", "custom": "compute_custom_component"}
ROUNDING: Final = 1e-5


def debug_loss_components(batch: Batch, model_outputs: Outputs, loss_fn: Any, show: bool = False) -> dict[str, float]:
    """Return the parts of a loss by name, and the loss itself as ``"total"``, last.

    The parts are those of ``loss_fn.components(batch, model_outputs)``, as they enter the loss (weights included), and what
    the methods ``compute_dpo_loss``, ``compute_sft_loss`` and ``compute_custom_component`` give, where a loss has them, as
    ``"dpo"``, ``"sft"`` and ``"custom"`` (weights not included). Where ``components`` names more than one part and they do not
    add up to the loss, the difference is there as ``"remainder"``. No graph is built.

    Args:
        batch: as for ``compute_loss``.
        model_outputs: as for ``compute_loss``.
        loss_fn: any object with ``compute_loss``. Mind that it comes last here and first in ``analyze_loss_gradients``.
        show: print each entry on a line as well.

    Raises:
        ValueError: a part that is not a 0-dim tensor.

    Source: the guide's ``debug_loss_components``.
    """
    with torch.no_grad():
        total = _number("total", loss_fn.compute_loss(batch, model_outputs))
        named = loss_fn.components(batch, model_outputs) if hasattr(loss_fn, "components") else {}
        parts = {name: _number(name, part) for name, part in named.items()}
        summed = sum(parts.values())
        if parts.keys() == {"loss"}:
            del parts["loss"]  # a loss of one part is its total
        if parts and not _close(summed, total, parts):
            parts["remainder"] = total - summed
        for name, method in GUIDE_METHODS.items():
            if name not in parts and hasattr(loss_fn, method):
                value = _result_of(getattr(loss_fn, method), batch, model_outputs)
                parts |= {} if value is None else {name: _number(name, value)}
    parts["total"] = total
    if show:
        print("\n".join(f"{name}: {value:.4f}" for name, value in parts.items()))
    return parts


def _number(name: str, result: Any) -> float:
    return float(split_result(name, result)[0])


def _result_of(method: Any, batch: Batch, model_outputs: Outputs) -> Tensor | tuple[Tensor, dict[str, Any]] | None:
    try:
        result: Tensor | tuple[Tensor, dict[str, Any]] = method(batch, model_outputs)
    except NotImplementedError:  # inherited and not defined: this loss has no such part
        return None
    return result


def _close(summed: float, total: float, parts: dict[str, float]) -> bool:
    return abs(total - summed) <= ROUNDING * max(1e-30, sum(abs(part) for part in parts.values()))
