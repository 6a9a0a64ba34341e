"""A loss called in every way the laws need: cloned inputs or the very ones, other precisions, other devices."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from loss_conformance.cases.case import Case
from loss_conformance.copying import copy_of, tensors_held
from loss_conformance.device.simulated import SimulatedDevice
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed, Stopwatch, evaluate, parameters_of, scalar
from loss_conformance.saved_for_backward import bytes_saved, graphs_kept
from loss_conformance.subject.result import result_of
from loss_conformance.subject.subject import Subject
from loss_reference.contract import Contract

__all__ = ["Caller"]


class Caller:
    """Calls one loss.

    Attributes:
        subject: the loss.
        contract: what calling it depends on: whether it is stateful, stochastic, or returns terms.
        seed: the seed a stochastic loss starts from.
        stopwatch: the time spent inside the loss.
        fresh_each_time: every evaluation starts from a copy, because a call changes what the loss keeps.
    """

    def __init__(self, subject: Subject, contract: Contract, seed: int) -> None:
        self.subject = subject
        self.contract = contract
        self.seed = seed
        self.stopwatch = Stopwatch()
        self.fresh_each_time = contract.stateful
        self._cast_losses: dict[torch.dtype, Any] = {}

    def evaluate(
        self,
        case: Case,
        *,
        loss: Any = None,
        dtype: torch.dtype | None = None,
        grad_mode_as_left: bool = False,
        same_object: bool = False,
        **how: Any,
    ) -> Evaluation:
        """Evaluate the loss on ``case``, cast to ``dtype`` (the precision of the case when ``None``).

        A loss that keeps something starts from a fresh copy each time unless ``same_object``, a stochastic one from the
        same seed, each with gradients enabled; ``grad_mode_as_left`` lets what it does to the grad mode be seen after.
        """
        case = case if dtype is None else case.cast(dtype)
        loss = self._ready(case, loss, copied=self.fresh_each_time and not same_object)
        with contextlib.nullcontext() if grad_mode_as_left else torch.enable_grad():
            how = {"terms": self._terms, "stopwatch": self.stopwatch, **how}
            return evaluate(self.subject.protocol, loss, case, **how)

    def keeps_something(self, case: Case, *, evaluating: bool = False) -> bool:
        """Return whether a call on ``case`` changes a tensor the loss keeps, tried on a copy.

        ``evaluating`` calls it as in validation: in evaluation mode, where it has one, and under ``no_grad``.
        """
        loss = self._ready(case, copied=True)
        if evaluating and isinstance(loss, nn.Module):
            loss.eval()
        before = tensors_held(loss)
        try:
            with torch.set_grad_enabled(not evaluating):
                self.subject.protocol.call(loss, case)
        except Exception:
            return False
        after = tensors_held(loss)
        return before.keys() != after.keys() or any(not torch.equal(before[name], after[name]) for name in before)

    def own_copy(self, case: Case) -> Any:
        """Return a copy of the loss in the precision of ``case``, to be called again and again as ``same_object``."""
        return self._ready(case, copied=True)

    def call(self, case: Case, loss: Any = None) -> Tensor:
        """Call the loss on the very tensors of ``case``, nothing cloned, and run its backward; return the value."""
        loss = self._ready(case) if loss is None else loss
        try:
            value, _ = result_of(self.subject.protocol.call(loss, case))
        except Exception as error:
            raise LossRaised(error) from error
        value = scalar(value, self._terms)
        leaves = [t for t in case.tensors.values() if t.requires_grad]
        if value.requires_grad and leaves:
            torch.autograd.grad(value, leaves, allow_unused=True)
        return value

    def returned(self, case: Case, loss: Any) -> Any:
        """Return what ``loss`` itself returns on ``case``, metrics left out, nothing reduced."""
        loss = self._ready(case, loss, copied=False)
        try:
            return result_of(self.subject.protocol.call(loss, case))[0]
        except (ValueError, TypeError, KeyError, NotImplementedError):
            raise
        except Exception as error:
            raise LossRaised(error) from error

    def mapped(self, cases: Sequence[Case]) -> Tensor:
        """Return the loss of each of several cases, equal but for some tensors, mapped over those: one call."""
        loss = self._ready(cases[0])
        first, *others = cases
        stacks = {
            key: torch.stack([case.tensors[key] for case in cases])
            for key in first.tensors
            if any(case.tensors[key] is not first.tensors[key] for case in others)
        }

        def value(tensors: dict[str, Tensor]) -> Tensor:
            returned, _ = result_of(self.subject.protocol.call(loss, first.with_tensors(tensors)))
            return scalar(returned, self._terms)

        try:
            found: Tensor = torch.vmap(value)(stacks)
        except Malformed:
            raise
        except Exception as error:
            raise LossRaised(error) from error
        return found

    def graphs_kept(self, case: Case) -> list[bool]:
        """Return which graphs of some calls of one object are still alive when their results are dropped."""
        loss = self._ready(case, copied=True)
        return graphs_kept(partial(self._called_on_leaves, loss, case))

    def bytes_saved(self, case: Case) -> int:
        """Return how many bytes a call on ``case`` keeps for its backward pass, those of its inputs left out."""
        loss = self._ready(case)
        leaves = self._on_leaves(case)
        return bytes_saved(partial(self._result, loss, leaves), list(leaves.tensors.values()))

    def _called_on_leaves(self, loss: Any, case: Case) -> Any:
        return self._result(loss, self._on_leaves(case))

    def _result(self, loss: Any, case: Case) -> Any:
        self._restart_random_numbers()
        try:
            return self.subject.protocol.call(loss, case)
        except Exception as error:
            raise LossRaised(error) from error

    def _on_leaves(self, case: Case) -> Case:
        return case.with_tensors(self._leaves(case))

    def _leaves(self, case: Case) -> dict[str, Tensor]:
        """Return the trainable inputs as leaves that require grad."""
        return {
            slot.key: case.tensor(slot).clone().requires_grad_()
            for slot in case.slots()
            if slot.trainable and case.tensor(slot).is_floating_point()
        }

    def backward_into_grad(self, case: Case, start: float) -> dict[str, Tensor]:
        """Run the loss's own ``backward`` on leaves whose ``.grad`` is ``start`` everywhere; return the leaves."""
        loss = self._ready(case)
        leaves = self._leaves(case)
        for leaf in leaves.values():
            leaf.grad = torch.full_like(leaf, start)
        fed = case.with_tensors({key: leaf.clone() for key, leaf in leaves.items()})
        try:
            value, _ = result_of(self.subject.protocol.call(loss, fed))
            value = scalar(value, self._terms)
            own = getattr(loss, "backward", None)
            own(value) if callable(own) else torch.autograd.backward(value)
        except Exception as error:
            raise LossRaised(error, "backward") from error
        return leaves

    def evaluate_on(self, case: Case, device: torch.device) -> Evaluation:
        """Evaluate a copy of the loss on a real device."""
        loss = self._ready(case, copied=False)
        if isinstance(loss, nn.Module):
            loss = copy_of(loss).to(device)
        return evaluate(self.subject.protocol, loss, case.to(device), terms=self._terms)

    def evaluate_simulated(self, case: Case, device: SimulatedDevice) -> Evaluation:
        """Evaluate a copy of the loss with every input, parameter and buffer on the simulated device."""
        loss = self._ready(case, copied=False)
        if isinstance(loss, nn.Module):
            loss = copy_of(loss)
            for module in loss.modules():
                # Written past the module: a parameter of another class is refused by its own setter.
                for state in (vars(module)["_parameters"], vars(module)["_buffers"]):
                    state.update({name: device.put(t) for name, t in state.items() if t is not None})
        return evaluate(self.subject.protocol, loss, case, terms=self._terms, through=device.put)

    def moved(self, steps: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
        """Return a copy of the loss with its own parameters moved by these steps."""
        loss = copy_of(self._in_precision(self.subject.loss, dtype))
        with torch.no_grad():
            for name, parameter in parameters_of(loss).items():
                if name in steps:
                    parameter.add_(steps[name])
        return loss

    @property
    def _terms(self) -> bool:
        return self.contract.output == "terms"

    def _ready(self, case: Case, loss: Any = None, *, copied: bool | None = None) -> Any:
        """Return the loss in the precision of ``case``, random numbers restarted; a copy where a call would change it."""
        loss = self._in_precision(self.subject.loss if loss is None else loss, _precision(case))
        self._restart_random_numbers()
        return copy_of(loss) if (self.fresh_each_time if copied is None else copied) else loss

    def _restart_random_numbers(self) -> None:
        if self.contract.stochastic:
            torch.manual_seed(self.seed)

    def _in_precision(self, loss: Any, dtype: torch.dtype) -> Any:
        # Parameters and buffers must meet the inputs in one dtype, without touching the user's own object.
        kept = [t.dtype for t in _state(loss) if t.is_floating_point()] if isinstance(loss, nn.Module) else []
        if not kept:
            return loss
        if loss is not self.subject.loss:
            return loss if set(kept) == {dtype} else copy_of(loss).to(dtype)
        if dtype not in self._cast_losses:
            self._cast_losses[dtype] = copy_of(loss).to(dtype)
        return self._cast_losses[dtype]


def _state(loss: nn.Module) -> list[torch.Tensor]:
    return [*loss.parameters(), *loss.buffers()]


def _precision(case: Case) -> torch.dtype:
    """Return the widest precision among the inputs; of equally wide ones, that of the first."""
    floating = [t.dtype for t in case.tensors.values() if t.is_floating_point()]
    return max(floating, key=lambda dtype: dtype.itemsize, default=torch.float32)
