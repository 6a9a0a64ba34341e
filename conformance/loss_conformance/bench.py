"""A loss on the test bench: its inputs found, its contract settled, its precision measured, its evaluations shared."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from loss_conformance.cases.build import build
from loss_conformance.cases.case import Case
from loss_conformance.cases.own_batch import LARGEST_WIDENED, own_case
from loss_conformance.cases.plan import ORDINARY, Plan
from loss_conformance.cases.slot import Schema
from loss_conformance.comparison import Comparison
from loss_conformance.copying import copy_of
from loss_conformance.device.simulated import SimulatedDevice
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed, Stopwatch, evaluate, parameters_of, scalar
from loss_conformance.facts.coupling import Coupling, measure_coupling
from loss_conformance.facts.facts import Facts, gather
from loss_conformance.facts.infer import infer
from loss_conformance.facts.sources import contract_sources, declared_contract
from loss_conformance.precision import computes_in_float64
from loss_conformance.profile import PROFILES, Profile
from loss_conformance.subject.handing_through import HandingThrough
from loss_conformance.subject.interface import PROBE
from loss_conformance.subject.reference import reference_subject
from loss_conformance.subject.result import result_of
from loss_conformance.subject.subject import Subject

__all__ = ["Bench"]


class Bench:
    """One loss, ready to be measured.

    Raises:
        CannotFeed: no inputs were found that the loss accepts.
    """

    def __init__(self, subject: Subject, seed: int = 0, example: tuple[Any, Any] | None = None) -> None:
        self.subject = subject
        self.seed = seed
        self.stopwatch = Stopwatch()
        self._cast_losses: dict[torch.dtype, Any] = {}
        self._bases: dict[int, tuple[Case, Evaluation]] = {}
        self._comparisons: dict[str, Comparison] = {}
        self._cases: dict[tuple[Plan, int], Case] = {}
        self.pool: dict[str, list[Plan]] = {}
        self.device = "auto"
        self.baseline: Subject | None = None
        self.profile = PROFILES["standard"]
        if example is None:
            self.routes = subject.protocol.routes(subject.loss, declared_contract(subject))
        else:
            self._asked = HandingThrough(*example).asked(subject.loss, *example)
            self.routes = (own_case(*example, self._asked, declared_contract(subject), paired=False).schema,)
        self._example = example
        self._sources = contract_sources(subject)
        # What calling the loss itself depends on is never inferred, so it is settled before anything is measured.
        self._calling = gather(self._sources, self._output()).contract

    def options(self, device: str, baseline: Subject | None, profile: Profile) -> None:
        """Note what the run asked for: a device, a baseline, and how much time there is."""
        self.device, self.baseline, self.profile = device, baseline, profile

    @cached_property
    def facts(self) -> Facts:
        """Every contract fact, and where it comes from."""
        inferred = infer(self.routes[0], gather(self._sources, {}), self.coupling)
        return gather(self._sources, {**inferred, **self._output()})

    def _output(self) -> dict[str, tuple[Any, str]]:
        """Return that a foreign loss gives one value per term, when that is what its first call gave."""
        protocol = self.subject.protocol
        if not protocol.foreign or gather(self._sources, {}).promised("output"):
            return {}
        case = build(self.routes[0], PROBE).cast(torch.float32)
        try:
            value, _ = result_of(protocol.call(self.subject.loss, case))
        except Exception:
            return {}
        if not isinstance(value, Tensor) or value.dim() == 0:
            return {}
        return {
            "output": ("terms", "its first call gave one value per term"),
            "normalizer": ("sum", "the caller reduces the terms"),
        }

    @cached_property
    def coupling(self) -> Coupling:
        """How the rows hang together, measured."""
        if self._example is not None:
            return Coupling.UNKNOWN
        return measure_coupling(self.routes[0], self.evaluate)

    @cached_property
    def schemas(self) -> tuple[Schema, ...]:
        """The routes, with rows paired when a term compares two of them."""
        pairs_of_rows = any(slot.place != "argument" for slot in self.routes[0].slots)
        paired = self.facts.contract.level == "pair" and pairs_of_rows and "N" not in self.routes[0].letters
        return tuple(replace(route, paired=route.paired or paired) for route in self.routes)

    @cached_property
    def own(self) -> Case | None:
        """The user's own batch in the working precision, or ``None`` when cases are drawn."""
        if self._example is None:
            return None
        case = own_case(*self._example, self._asked, self.facts.contract, self.schemas[0].paired)
        return case.cast(self.dtype)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The precision laws are tried in: float64, or float32 when the loss takes nothing wider."""
        if self._example is not None:
            probe = own_case(*self._example, self._asked, self.facts.contract, self.schemas[0].paired)
            if sum(t.numel() for t in probe.tensors.values()) > LARGEST_WIDENED:
                return torch.float32
        else:
            probe = self.case(PROBE, 0, torch.float64)
        try:
            self.evaluate(probe, dtype=torch.float64)
        except (LossRaised, Malformed):
            return torch.float32
        return torch.float64

    @cached_property
    def eps(self) -> float:
        """Unit roundoff of the precision the loss really computes in, whatever it is fed.

        A loss that casts to float32 inside is compared with float32 tolerances.
        """
        if self.dtype is torch.float32:
            return torch.finfo(torch.float32).eps
        follows = not self.facts.contract.surrogate_gradient
        probe = self.case(PROBE, 0) if self.own is None else self.own
        wide = computes_in_float64(probe, self.evaluate, follows_gradient=follows)
        return torch.finfo(torch.float64 if wide else torch.float32).eps

    @cached_property
    def comparison(self) -> Comparison | None:
        """The loss to compare with: the one that was given, else the reference the contract names, else none."""
        name = self.facts.contract.baseline
        if self.baseline is not None:
            return Comparison(Bench(self.baseline, self.seed))
        return None if name is None else self.compared_with(name)

    def compared_with(self, name: str) -> Comparison:
        """Return the comparison with a reference loss, set up with the settings this loss shares with it."""
        if name not in self._comparisons:
            self._comparisons[name] = Comparison(Bench(reference_subject(name, self.subject.settings), self.seed))
        return self._comparisons[name]

    def case(self, plan: Plan, route: int, dtype: torch.dtype | None = None) -> Case:
        """Return the case of a plan, in the working precision; built once."""
        key = (plan, route)
        if dtype is not None:
            return build(self.schemas[route], plan).cast(dtype)
        if key not in self._cases:
            self._cases[key] = build(self.schemas[route], plan).cast(self.dtype)
        return self._cases[key]

    def route_of(self, case: Case) -> int:
        """Return which set of inputs a drawn case fills."""
        return next((i for i, schema in enumerate(self.schemas) if schema == case.schema), 0)

    def base(self, case: Case) -> Evaluation:
        """Return the evaluation of an untouched case, computed once."""
        known = self._bases.get(id(case))
        if known is None:
            known = self._bases[id(case)] = (case, self.evaluate(case))
        return known[1]

    def evaluate(
        self,
        case: Case,
        *,
        loss: Any = None,
        dtype: torch.dtype | None = None,
        grad_mode_as_left: bool = False,
        **how: Any,
    ) -> Evaluation:
        """Evaluate the loss on ``case``, cast to ``dtype`` (the precision of the case when ``None``).

        A stateful loss starts from a fresh copy each time, a stochastic one from the same seed, each with gradients
        enabled; ``grad_mode_as_left`` lets what the loss does to the grad mode be seen afterwards.
        """
        case = case if dtype is None else case.cast(dtype)
        loss = self.subject.loss if loss is None else loss
        loss = self._in_precision(loss, _precision(case))
        if self._calling.stateful:
            loss = copy_of(loss)
        if self._calling.stochastic:
            torch.manual_seed(self.seed)
        terms = self._calling.output == "terms"
        with contextlib.nullcontext() if grad_mode_as_left else torch.enable_grad():
            return evaluate(self.subject.protocol, loss, case, terms=terms, stopwatch=self.stopwatch, **how)

    def call(self, case: Case) -> Tensor:
        """Call the loss on the very tensors of ``case``, nothing cloned, and run its backward; return the value."""
        loss = self._in_precision(self.subject.loss, _precision(case))
        try:
            value, _ = result_of(self.subject.protocol.call(loss, case))
        except Exception as error:
            raise LossRaised(error) from error
        value = scalar(value, self._calling.output == "terms")
        leaves = [t for t in case.tensors.values() if t.requires_grad]
        if value.requires_grad and leaves:
            torch.autograd.grad(value, leaves, allow_unused=True)
        return value

    def returned(self, case: Case, loss: Any) -> Any:
        """Return what ``loss`` itself returns on ``case``, metrics left out, nothing reduced."""
        try:
            return result_of(self.subject.protocol.call(self._in_precision(loss, _precision(case)), case))[0]
        except (ValueError, TypeError, KeyError, NotImplementedError):
            raise
        except Exception as error:
            raise LossRaised(error) from error

    def backward_into_grad(self, case: Case, start: float) -> dict[str, Tensor]:
        """Run the loss's own ``backward`` on leaves whose ``.grad`` is ``start`` everywhere; return the leaves."""
        loss = self._in_precision(self.subject.loss, _precision(case))
        loss = copy_of(loss) if self._calling.stateful else loss
        leaves = {
            slot.key: case.tensor(slot).clone().requires_grad_()
            for slot in case.slots()
            if slot.trainable and case.tensor(slot).is_floating_point()
        }
        for leaf in leaves.values():
            leaf.grad = torch.full_like(leaf, start)
        fed = case.with_tensors({key: leaf.clone() for key, leaf in leaves.items()})
        try:
            value, _ = result_of(self.subject.protocol.call(loss, fed))
            value = scalar(value, self._calling.output == "terms")
            own = getattr(loss, "backward", None)
            own(value) if callable(own) else torch.autograd.backward(value)
        except Exception as error:
            raise LossRaised(error, "backward") from error
        return leaves

    def evaluate_on(self, case: Case, device: torch.device) -> Evaluation:
        """Evaluate a copy of the loss on a real device."""
        loss = self._in_precision(self.subject.loss, _precision(case))
        if isinstance(loss, nn.Module):
            loss = copy_of(loss).to(device)
        terms = self._calling.output == "terms"
        return evaluate(self.subject.protocol, loss, case.to(device), terms=terms)

    def evaluate_simulated(self, case: Case, device: SimulatedDevice) -> Evaluation:
        """Evaluate a copy of the loss with every input, parameter and buffer on the simulated device."""
        loss = self._in_precision(self.subject.loss, _precision(case))
        if isinstance(loss, nn.Module):
            loss = copy_of(loss)
            for module in loss.modules():
                # Written past the module: a parameter of another class is refused by its own setter.
                for state in (vars(module)["_parameters"], vars(module)["_buffers"]):
                    state.update({name: device.put(t) for name, t in state.items() if t is not None})
        terms = self._calling.output == "terms"
        return evaluate(self.subject.protocol, loss, case, terms=terms, through=device.put)

    def ordinary_bases(self) -> list[Evaluation]:
        """Return the evaluations of the ordinary cases of this run, those that raised left out."""
        return [base for _, base in self.ordinary_cases()]

    @cached_property
    def usual_gradients(self) -> dict[str, float]:
        """The largest entry of the gradient of each input and parameter over the ordinary cases of this run."""
        usual: dict[str, float] = {}
        for base in self.ordinary_bases():
            for key, gradient in {**base.gradients, **base.parameters}.items():
                largest = float(gradient.abs().amax()) if gradient.numel() else 0.0
                if largest < float("inf"):
                    usual[key] = max(usual.get(key, 0.0), largest)
        return usual

    def ordinary_cases(self) -> list[tuple[Case, Evaluation]]:
        """Return the ordinary cases of this run with their evaluations, those that raised left out."""
        return self.cases_of(ORDINARY, 3)

    def cases_of(self, situations: tuple[str, ...], each: int) -> list[tuple[Case, Evaluation]]:
        """Return ``each`` cases of these situations with their evaluations, those that raised left out."""
        if self.own is not None:
            return [(self.own, self.base(self.own))]
        found = []
        for position, plan in enumerate(plan for situation in situations for plan in self.pool[situation][:each]):
            case = self.case(plan, position % len(self.schemas))
            try:
                found.append((case, self.base(case)))
            except (LossRaised, Malformed):
                continue
        return found

    def moved(self, steps: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
        """Return a copy of the loss with its own parameters moved by these steps."""
        loss = copy_of(self._in_precision(self.subject.loss, dtype))
        with torch.no_grad():
            for name, parameter in parameters_of(loss).items():
                if name in steps:
                    parameter.add_(steps[name])
        return loss

    def _in_precision(self, loss: Any, dtype: torch.dtype) -> Any:
        # Parameters and buffers must meet the inputs in one dtype, without touching the user's own object.
        if not isinstance(loss, nn.Module) or not any(t.is_floating_point() for t in _state(loss)):
            return loss
        if loss is not self.subject.loss:
            return copy_of(loss).to(dtype)
        if dtype not in self._cast_losses:
            self._cast_losses[dtype] = copy_of(loss).to(dtype)
        return self._cast_losses[dtype]


def _state(loss: nn.Module) -> list[torch.Tensor]:
    return [*loss.parameters(), *loss.buffers()]


def _precision(case: Case) -> torch.dtype:
    return next((t.dtype for t in case.tensors.values() if t.is_floating_point()), torch.float32)
