"""The gradients a loss sends out, measured without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loss_reference.composite.combine import split_result
from loss_reference.interface import Batch, ModelOutputs, Outputs

__all__ = ["GradientReport", "analyze_loss_gradients"]


@dataclass(frozen=True)
class GradientReport:
    """Gradients of one loss value.

    Attributes:
        loss: the value.
        norms: Euclidean norm by name: parameters by their own name, those of ``loss_fn.model`` as ``model.<name>``, model
            outputs as ``model_outputs.<name>``.
        largest: largest absolute entry by name.
        unused: names that the loss does not depend on.
        non_finite: names whose gradient holds NaN or inf.
        exploding: names whose norm is above the threshold.
        total_norm: norm over all parameters, what gradient clipping would see; without parameters, over the model outputs.
    """

    loss: float
    norms: Mapping[str, float]
    largest: Mapping[str, float]
    unused: tuple[str, ...]
    non_finite: tuple[str, ...]
    exploding: tuple[str, ...]
    total_norm: float

    @property
    def healthy(self) -> bool:
        """Whether something receives gradient, every entry is finite and no norm is above the threshold."""
        return bool(self.norms) and not self.non_finite and not self.exploding

    def __str__(self) -> str:
        notes = dict.fromkeys(self.non_finite, "not finite") | dict.fromkeys(self.exploding, "large")
        lines = [f"loss = {self.loss:.4f}, total gradient norm = {self.total_norm:.4f}"]
        for name, norm in self.norms.items():
            lines.append(f"{name}: grad_norm = {norm:.4f}" + (f"  ({notes[name]})" if name in notes else ""))
        lines += [f"{name}: no gradient, the loss does not depend on it" for name in self.unused]
        return "\n".join(lines)


def analyze_loss_gradients(
    loss_fn: Any, batch: Batch, model_outputs: Outputs, threshold: float = 10.0
) -> GradientReport:
    """Return the gradients of a loss with respect to everything trainable; no ``.grad`` is touched, no graph is freed.

    Trainable are the parameters of ``loss_fn`` and of ``loss_fn.model`` that require grad, and every floating-point tensor of
    ``model_outputs``. One that does not require grad is replaced by a copy that does, so that plain tensors do for a trial.

    Args:
        loss_fn: any object with ``compute_loss``. Mind that it comes first here and last in ``debug_loss_components``.
        batch: as for ``compute_loss``.
        model_outputs: as for ``compute_loss``.
        threshold: norm above which a gradient counts as exploding, above 0.

    Raises:
        ValueError: a threshold that is not above 0, a loss that is not a 0-dim tensor.

    Source: the guide's ``analyze_loss_gradients``.
    """
    if not threshold > 0:
        raise ValueError(f"threshold={threshold!r}; expected a number above 0")
    with torch.enable_grad():
        outputs = ModelOutputs({name: _trainable(value) for name, value in model_outputs.items()})
        loss, _ = split_result("loss", loss_fn.compute_loss(batch, outputs))
        targets = dict(_parameters(loss_fn))
        parameter_names = set(targets)
        targets |= {f"model_outputs.{name}": value for name, value in outputs.items() if _requires_grad(value)}
        gradients: dict[str, Tensor | None] = dict.fromkeys(targets)
        if loss.requires_grad and targets:
            found = torch.autograd.grad(loss, list(targets.values()), allow_unused=True, retain_graph=True)
            gradients = dict(zip(targets, found, strict=True))
    present = {name: grad.detach() for name, grad in gradients.items() if grad is not None}
    norms = {name: float(torch.linalg.vector_norm(_wide(grad))) for name, grad in present.items()}
    counted = [norm for name, norm in norms.items() if name in parameter_names or not parameter_names]
    return GradientReport(
        loss=float(loss.detach()),
        norms=norms,
        largest={name: float(grad.abs().max()) if grad.numel() else 0.0 for name, grad in present.items()},
        unused=tuple(name for name, grad in gradients.items() if grad is None),
        non_finite=tuple(name for name, grad in present.items() if not bool(torch.isfinite(grad).all())),
        exploding=tuple(name for name, norm in norms.items() if norm > threshold),
        total_norm=sum(norm**2 for norm in counted) ** 0.5,
    )


def _parameters(loss_fn: Any) -> Iterator[tuple[str, Tensor]]:
    own = list(loss_fn.named_parameters()) if isinstance(loss_fn, nn.Module) else []
    yield from ((name, parameter) for name, parameter in own if parameter.requires_grad)
    model, seen = getattr(loss_fn, "model", None), {id(parameter) for _, parameter in own}
    for name, parameter in model.named_parameters() if isinstance(model, nn.Module) else ():
        if parameter.requires_grad and id(parameter) not in seen:
            yield f"model.{name}", parameter


def _requires_grad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _trainable(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.requires_grad or not value.is_floating_point():
        return value
    return value.detach().clone().requires_grad_()


def _wide(grad: Tensor) -> Tensor:
    return grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad
