"""A loss on the test bench: its inputs found, its contract settled, its precision measured, its evaluations shared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.caller import Caller
from loss_conformance.cases.build import build
from loss_conformance.cases.case import Case
from loss_conformance.cases.off_ties import off_ties
from loss_conformance.cases.own_batch import LARGEST_WIDENED, own_case
from loss_conformance.cases.plan import ORDINARY, Plan
from loss_conformance.cases.pool import draw_pool
from loss_conformance.cases.slot import Schema
from loss_conformance.comparison import Comparison
from loss_conformance.copying import copy_of
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.facts.coupling import Coupling, measure_coupling
from loss_conformance.facts.facts import Facts, gather
from loss_conformance.facts.groups import measure_group
from loss_conformance.facts.infer import infer
from loss_conformance.facts.sources import contract_sources, declared_contract
from loss_conformance.global_state import random_numbers_from
from loss_conformance.precision import computes_in_float64
from loss_conformance.subject.handing_through import HandingThrough
from loss_conformance.subject.interface import PROBE
from loss_conformance.subject.reference import reference_subject, require_registered
from loss_conformance.subject.result import result_of
from loss_conformance.subject.setting_names import settings_in_force
from loss_conformance.subject.subject import Subject

__all__ = ["Bench"]

SEEDS_DRAWN_ON: Final = 3
CASES_OF_A_SEED: Final = 6
"""How many other seeds are drawn from when a run's own cases were not enough to see something, and plans of each."""


class Bench:
    """One loss, ready to be measured.

    Raises:
        CannotFeed: no inputs were found that the loss accepts.
        TargetError: its contract compares it with a loss that is not registered, or cannot be set up like it.
    """

    def __init__(self, subject: Subject, seed: int = 0, example: tuple[Any, Any] | None = None) -> None:
        self.subject = subject
        self.seed = seed
        declared = declared_contract(subject)
        require_registered(declared, subject.target)
        if declared.baseline is not None:
            reference_subject(
                declared.baseline, settings_in_force(subject)
            )  # refused here, rather than in the middle of a law
        untouched = _before_any_call(subject.loss)
        self._bases: dict[int, tuple[Case, Evaluation]] = {}
        self._float32: dict[int, tuple[Case, Evaluation]] = {}
        self._comparisons: dict[str, Comparison] = {}
        self._cases: dict[tuple[Plan, int], Case] = {}
        self.pool: dict[str, list[Plan]] = {}
        self.device = "auto"
        self.profile = "standard"
        self.baseline: Subject | None = None
        if example is None:
            self.routes = subject.protocol.routes(subject.loss, declared_contract(subject))
        else:
            self._asked = HandingThrough(*example).asked(subject.loss, *example)
            self.routes = (own_case(*example, self._asked, declared_contract(subject), group=1).schema,)
        self._example = example
        self._sources = contract_sources(subject)
        # What calling the loss itself depends on is never inferred, so it is settled before anything is measured.
        self._settled = {**self._output(), **self._random_numbers()}
        contract = gather(self._sources, self._settled).contract
        self.caller = Caller(subject, contract, seed)
        self._keeps = example is None and self.caller.keeps_something(self._probe())
        if (self._keeps or contract.stateful) and untouched is not None:
            self.subject = replace(subject, loss=untouched)
            self.caller = Caller(self.subject, contract, seed)
        # Laws compare single calls; that a call changes the next one is for one of them to say.
        self.caller.fresh_each_time = self._keeps or contract.stateful

    def options(self, device: str, baseline: Subject | None, profile: str) -> None:
        """Note what the run asked for: a device, a baseline and a profile."""
        self.device, self.baseline, self.profile = device, baseline, profile

    @cached_property
    def facts(self) -> Facts:
        """Every contract fact, and where it comes from."""
        inferred = infer(self.routes[0], gather(self._sources, {}), self.coupling)
        return gather(self._sources, {**inferred, **self._settled, **self._state(), **self._groups})

    @cached_property
    def _groups(self) -> dict[str, tuple[Any, str]]:
        """Return how many neighbouring rows belong together, where nobody declared it and the loss shows it."""
        said = gather(self._sources, {})
        if self._example is not None or said.promised("group_size") or said.contract.level == "pair":
            return {}
        found = measure_group(self.routes[0], self.caller.evaluate, self.subject.settings)
        return {} if found is None else {"group_size": found}

    def _probe(self) -> Case:
        return build(self.routes[0], PROBE).cast(torch.float32)

    def _state(self) -> dict[str, tuple[Any, str]]:
        """Return that a loss is stateful when it keeps something in training alone: nobody does that by mistake."""
        if not self._keeps or self.caller.keeps_something(self._probe(), evaluating=True):
            return {}
        return {"stateful": (True, "a call changes what it keeps, and in evaluation it does not")}

    def _random_numbers(self) -> dict[str, tuple[Any, str]]:
        """Return that a foreign loss draws random numbers, when its value follows those of torch."""
        protocol = self.subject.protocol
        if not protocol.foreign or self._example is not None or gather(self._sources, {}).promised("stochastic"):
            return {}
        loss, case = _before_any_call(self.subject.loss), self._probe()
        values: list[Tensor] = []
        try:
            for seed in (0, 0, 1, 2):
                with random_numbers_from(seed):
                    values.append(result_of(protocol.call(copy_of(loss), case))[0].detach())
            if not torch.equal(values[0], values[1]) or all(torch.equal(values[0], other) for other in values[2:]):
                return {}
        except Exception:
            return {}
        return {"stochastic": (True, "measured: its value follows torch's random numbers")}

    def _output(self) -> dict[str, tuple[Any, str]]:
        """Return that a foreign loss gives one value per term, when that is what its first call gave."""
        protocol = self.subject.protocol
        if gather(self._sources, {}).contract.output == "terms":
            return {"normalizer": ("sum", "it returns its terms, and the caller reduces them")}
        if not protocol.foreign or gather(self._sources, {}).promised("output"):
            return {}
        try:
            value, _ = result_of(protocol.call(self.subject.loss, self._probe()))
        except Exception:
            return {}
        if not isinstance(value, Tensor) or value.dim() == 0:
            return {}
        found: dict[str, tuple[Any, str]] = {
            "output": ("terms", "its first call gave one value per term"),
            "normalizer": ("sum", "the caller reduces the terms"),
        }
        if value.shape == (PROBE.rows, PROBE.rows):  # no other axis of that case has this size
            found["coupled"] = (True, "its first call gave one value for every row with every other")
        return found

    @cached_property
    def coupling(self) -> Coupling:
        """How the rows hang together, measured."""
        if self._example is not None or (gather(self._sources, self._groups).contract.group_size or 1) > 2:
            return Coupling.UNKNOWN
        measured = measure_coupling(self.routes[0], self.caller.evaluate)
        # Pairs are interleaved here. A loss that couples the halves of a batch says so, or takes the wrong rows for pairs.
        said = self.subject.settings.get("pair_layout") == "halves"
        return Coupling.ROWS if measured is Coupling.HALVES and not said else measured

    @cached_property
    def schemas(self) -> tuple[Schema, ...]:
        """The routes, with rows in groups where a term compares some of them."""
        contract = self.facts.contract
        of_rows = any(slot.place != "argument" for slot in self.routes[0].slots) and "N" not in self.routes[0].letters
        group = contract.group_size or (2 if contract.level == "pair" else 1)
        ordered, halves = contract.level == "pair", of_rows and self.coupling is Coupling.HALVES
        groups = (max(route.group, group if of_rows else contract.group_size or 1) for route in self.routes)
        return tuple(
            replace(route, group=size, ordered=ordered, halves=halves)
            for route, size in zip(self.routes, groups, strict=True)
        )

    @cached_property
    def own(self) -> Case | None:
        """The user's own batch in the working precision, or ``None`` when cases are drawn."""
        if self._example is None:
            return None
        case = own_case(*self._example, self._asked, self.facts.contract, self.schemas[0].group)
        return case.cast(self.dtype)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The precision laws are tried in: float64, or float32 when the loss takes nothing wider."""
        if self._example is not None:
            probe = own_case(*self._example, self._asked, self.facts.contract, self.schemas[0].group)
            if sum(t.numel() for t in probe.tensors.values()) > LARGEST_WIDENED:
                return torch.float32
        else:
            probe = self.case(PROBE, 0, torch.float64)
        try:
            self.caller.evaluate(probe, dtype=torch.float64)
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
        probe = off_ties(self.case(PROBE, 0) if self.own is None else self.own)
        wide = computes_in_float64(probe, self.caller.evaluate, follows_gradient=follows)
        return torch.finfo(torch.float64 if wide else torch.float32).eps

    @cached_property
    def comparison(self) -> Comparison | None:
        """The loss to compare with: the one that was given, else the reference the contract names, else none."""
        name = self.facts.contract.baseline
        if self.baseline is not None:
            return Comparison(Bench(self.baseline, self.seed))
        return None if name is None else self.compared_with(name)

    def compared_with(self, name: str, changed: Mapping[str, Any] | None = None) -> Comparison:
        """Return the comparison with a reference loss, set up with the settings this loss, so changed, shares with it."""
        key = f"{name} {changed}"
        if key not in self._comparisons:
            settings = {**settings_in_force(self.subject), **(changed or {})}
            self._comparisons[key] = Comparison(Bench(reference_subject(name, settings), self.seed))
        return self._comparisons[key]

    def baseline_with(self, changed: Mapping[str, Any]) -> Comparison | None:
        """Return the comparison with the given baseline so changed; ``None`` where it has no such setting, or refuses it."""
        given = self.baseline
        if given is None or given.rebuild is None or not changed.keys() <= given.settings.keys():
            return None
        try:
            return Comparison(Bench(replace(given, loss=given.rebuild(changed)), self.seed))
        except Exception:  # whatever the code of the baseline raises
            return None

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
            # Whoever asks first, a loss that draws random numbers gets the same here, and the law asking the same after.
            with random_numbers_from(self.seed):
                known = self._bases[id(case)] = (case, self.caller.evaluate(case))
        return known[1]

    def in_float32(self, case: Case) -> Evaluation:
        """Return the evaluation of an untouched case in float32, computed once."""
        known = self._float32.get(id(case))
        if known is None:
            with random_numbers_from(self.seed):
                known = self._float32[id(case)] = (case, self.caller.evaluate(case, dtype=torch.float32))
        return known[1]

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
        return list(self._evaluated(plan for situation in situations for plan in self.pool[situation][:each]))

    def further_cases(self, situations: tuple[str, ...]) -> Iterator[tuple[Case, Evaluation]]:
        """Yield cases of these situations that the run does not hold: drawn on with other seeds, none of one's own batch."""
        for further in range(1, SEEDS_DRAWN_ON + 1) if self.own is None else ():
            pool = draw_pool(CASES_OF_A_SEED, self.seed + further)
            yield from self._evaluated(plan for situation in situations for plan in pool[situation])

    def _evaluated(self, plans: Iterable[Plan]) -> Iterator[tuple[Case, Evaluation]]:
        for position, plan in enumerate(plans):
            case = self.case(plan, position % len(self.schemas))
            with contextlib.suppress(LossRaised, Malformed):
                yield case, self.base(case)


def _before_any_call(loss: Any) -> Any:
    try:
        return copy_of(loss)
    except Exception:
        return None
