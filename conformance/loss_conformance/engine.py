"""The engine: runs laws over cases, shrinks what fails, and returns verdicts. It knows nothing of pytest."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from itertools import cycle
from typing import Any, Final

import hypothesis
import torch

from loss_conformance.attempt import FIRST_CONTACT, Attempt, Watch, unwatched
from loss_conformance.bench import Bench
from loss_conformance.cases.case import Case
from loss_conformance.cases.describe import describe_case
from loss_conformance.cases.off_ties import off_ties
from loss_conformance.cases.plan import Plan
from loss_conformance.cases.pool import draw_pool, smallest_plan
from loss_conformance.checks.registry import Check, Severity, every_check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.exercise import exercise_warnings
from loss_conformance.guard import ForeignExit, Limited, TimeLimit, contained, out_of_memory, sheltered
from loss_conformance.profile import profile_named
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.subject.subject import Subject
from loss_conformance.subject.usual_settings import as_text
from loss_conformance.trial import Broken, Crashed, NotExercised, Trial, Unanswered
from loss_conformance.verdict import Failure, Report, Status, Verdict
from loss_reference.names import nearest_name

__all__ = ["Engine"]

FEWEST_PLANS: Final = 6
FURTHER_SEEDS: Final = 6
PATIENCE_AFTER_A_HANG: Final = 2.0
CALLS_OF_A_LAW: Final = 200


class Engine:
    """Every check about one loss.

    Args:
        subject: the loss.
        profile: ``"quick"``, ``"standard"`` or ``"thorough"``.
        seed: the seed cases are drawn from; the same seed gives the same verdicts.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        baseline: another subject to compare with, or ``None`` for the one the contract names.
        example: a factory of one (batch, model_outputs) of the user's own.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        profile: str = "standard",
        seed: int = 0,
        device: str = "auto",
        baseline: Subject | None = None,
        example: Callable[[], Any] | None = None,
    ) -> None:
        self.subject = subject
        self.profile = profile_named(profile)
        self.seed = seed
        self.device = device
        self.baseline = baseline
        self.example = example
        self._verdicts: dict[str, Verdict] = {}
        self._unfeedable: CannotFeed | None = None
        self._seconds = self.profile.seconds
        self._limited: Limited = partial(contained, seed=seed)
        self.watch: Watch = unwatched

    @property
    def target(self) -> str:
        """The loss as the user wrote it."""
        return self.subject.target

    def opened(self) -> tuple[str, int, list[str], tuple[str, ...]]:
        """Return what never changes: target, seed, names of the checks, header."""
        return self.target, self.seed, [check.name for check in self.checks()], self.header()

    def resume(self, verdicts: Mapping[str, Verdict], hung: bool) -> None:
        """Go on after an engine that is no more: with its verdicts, and less patience where the loss kept it waiting."""
        self._verdicts.update(verdicts)
        if hung:
            self._seconds = min(self._seconds, PATIENCE_AFTER_A_HANG)

    def close(self) -> None:
        """Nothing more will be asked."""

    def checks(self) -> list[Check]:
        """Return every check of the profile in running order. Does not touch the loss."""
        return [check for check in every_check() if check.belongs_to(self.profile.name)]

    @cached_property
    def bench(self) -> Bench:
        """The loss on its bench; finding its inputs runs it for the first time.

        Raises:
            CannotFeed: the loss accepts no inputs we know of, hangs, exits, or runs out of memory on the first call.
        """
        if self._unfeedable is not None:
            raise self._unfeedable
        try:
            return self._open_bench()
        except CannotFeed as reason:
            # Said again at once to every check that asks: a loss that hangs would hang each time.
            self._unfeedable = reason
            raise

    def _open_bench(self) -> Bench:
        try:
            with self.watch(FIRST_CONTACT, self._seconds), contained(self._seconds, self.seed):
                bench = Bench(self.subject, self.seed, self.example() if self.example is not None else None)
                bench.pool = self.pool
                bench.options(device=self.device, baseline=self.baseline, profile=self.profile.name)
                _ = bench.facts, bench.schemas
                with contextlib.suppress(LossRaised, Malformed):  # which is for the laws to say
                    _ = bench.eps
        except TimeLimit as limit:
            raise CannotFeed(f"its first call gave {limit}") from None
        except ForeignExit as request:
            raise CannotFeed(f"on its first call {request}") from None
        except MemoryError:
            raise CannotFeed("its first call ran out of memory") from None
        return bench

    @cached_property
    def _known(self) -> dict[str, Check]:
        return {check.name: check for check in every_check()}

    @cached_property
    def pool(self) -> dict[str, list[Plan]]:
        """The plans of this run by situation: at least ``FEWEST_PLANS``, of which a law is tried on the profile's share."""
        return draw_pool(max(self.profile.cases, FEWEST_PLANS), self.seed)

    def run(self, name: str) -> Verdict:
        """Return the verdict of one check, running its prerequisites first; each check runs once.

        Raises:
            CannotFeed: see ``bench``.
            ValueError: no such check.
        """
        if name not in self._verdicts:
            if name not in self._known:
                raise ValueError(f"no check is named {name!r}{nearest_name(name, self._known)}")
            started = time.perf_counter()
            verdict = self._answer(self._known[name])
            self._verdicts[name] = verdict.with_seconds(time.perf_counter() - started)
        return self._verdicts[name]

    def report(self) -> Report:
        """Run every check of the profile and return all verdicts."""
        verdicts = tuple(self.run(check.name) for check in self.checks())
        return Report(self.subject.target, verdicts, self.facts(), self.warnings(), self.seed)

    def facts(self) -> tuple[str, ...]:
        """Return one line per settled contract fact, with its origin."""
        return self.bench.facts.lines()

    def warnings(self) -> tuple[str, ...]:
        """Return what a reader of a green run must know: how little of the loss its cases may have exercised."""
        assumed = tuple(
            f"nothing gives {name} a value, so {value!r} was taken: --loss-config '{as_text(name, value)}'"
            for name, value in self.subject.assumed.items()
        )
        try:
            with self.watch(FIRST_CONTACT, self._seconds), contained(self._seconds, self.seed):
                return assumed + exercise_warnings(self.bench)
        except (TimeLimit, ForeignExit, MemoryError) as stopped:
            return (f"how much was exercised is not known: {stopped}",)

    def header(self) -> tuple[str, ...]:
        """Return what ran on what: loss, protocol, versions, profile, seed."""
        loss = self.subject.loss
        kind = getattr(loss, "__qualname__", type(loss).__qualname__)
        return (
            f"{self.subject.target}: {kind}, called through the {self.subject.protocol.name}",
            f"profile {self.profile.name}, seed {self.seed}, torch {torch.__version__}, "
            f"hypothesis {hypothesis.__version__}, Python {platform.python_version()}",
        )

    def _answer(self, check: Check) -> Verdict:
        doubtful = False
        for required in check.requires:
            earlier = self.run(required)
            doubtful = doubtful or earlier.status is Status.ADVICE
            if earlier.status in (Status.FAILED, Status.BLOCKED):
                return Verdict(check.name, check.group, Status.BLOCKED, reason=f"blocked by {required}")
        bench = self.bench
        exempt = bench.facts.contract.exempt
        unknown = [n for n in exempt if n not in self._known]
        if unknown and check.name == "scalar_output":
            hint = nearest_name(unknown[0], self._known)
            failure = Failure("Contract.exempt names checks that exist.", got=f"exempt[{unknown[0]!r}]{hint}")
            return Verdict(check.name, check.group, Status.FAILED, failure=failure)
        verdict = self._try_cases(check)
        if verdict.status is Status.FAILED and doubtful:
            # What this law rests on is itself in doubt for want of a contract.
            verdict = replace(verdict, status=Status.ADVICE)
        if check.name not in exempt:
            return verdict
        return _as_exempted(self._beyond_this_seed(check, verdict), exempt[check.name])

    def _beyond_this_seed(self, check: Check, verdict: Verdict) -> Verdict:
        """Return the verdict of the first seed on which an exempted law does not hold; it may hold on a few cases by luck."""
        drawn = self.pool
        try:
            for further in range(1, FURTHER_SEEDS + 1):
                if verdict.status is not Status.PASSED or self.bench.own is not None:
                    break
                self.pool = self.bench.pool = draw_pool(max(self.profile.cases, FEWEST_PLANS), self.seed + further)
                verdict = self._try_cases(check)
        finally:
            self.pool = self.bench.pool = drawn
        return verdict

    def _try_cases(self, check: Check) -> Verdict:
        with sheltered(self.seed) as self._limited:
            return self._tried(check)

    def _tried(self, check: Check) -> Verdict:
        if self.bench.own is not None and not check.own_batch:
            return Verdict(check.name, check.group, Status.NOT_APPLICABLE, reason="it needs batches drawn for it")
        tried, reasons = 0, []
        for attempt in self._attempts(check):
            outcome = self._once(check, attempt)
            if isinstance(outcome, str):
                reasons.append(outcome)
                continue
            tried += 1
            if isinstance(outcome, Crashed):
                return Verdict(check.name, check.group, Status.BLOCKED, reason=str(outcome.got), cases=tried)
            if outcome is not None:
                return self._failed(check, attempt, outcome, tried)
        if not tried:
            return Verdict(check.name, check.group, Status.NOT_APPLICABLE, reason=reasons[0] if reasons else "no case")
        return Verdict(check.name, check.group, Status.PASSED, cases=tried)

    def _attempts(self, check: Check) -> Iterator[Attempt]:
        """Yield what a law is tried on: the user's own batch, or drawn cases."""
        if self.bench.own is not None:
            yield Attempt(check.name)
            return
        routes = cycle(range(len(self.bench.schemas)))
        for situation in check.over:
            for plan in self.pool[situation][: min(self.profile.cases, check.most_cases or self.profile.cases)]:
                yield Attempt(check.name, plan, next(routes))

    def _case(self, attempt: Attempt) -> Case:
        if attempt.plan is not None:
            return self.bench.case(attempt.plan, attempt.route)
        assert self.bench.own is not None
        return self.bench.own

    def described(self, attempt: Attempt, steps: int = 0) -> str:
        """Return the case of an attempt in words."""
        return describe_case(self._case(attempt), self.seed, steps)

    def _once(self, check: Check, attempt: Attempt) -> Broken | str | None:
        """Return why the law does not apply, how it is broken, or ``None`` when it holds."""
        try:
            seconds = self._limit()
            with self.watch(attempt, seconds), self._limited(seconds):
                trial = Trial(self.bench, self._case(attempt))
                inapplicable = check.applies(trial)
                if inapplicable is not None:
                    return inapplicable
                self._hold(check, trial)
        except NotExercised as reason:
            return str(reason)
        except Broken as broken:
            return broken
        except (LossRaised, Malformed, ForeignExit, MemoryError) as error:
            if isinstance(error, LossRaised) and error.refusal and self.subject.protocol.foreign:
                return f"the loss declines this input: {error}"
            return _broken_by(error)
        except Exception as error:
            return Crashed(error)
        except TimeLimit as limit:
            # One check has waited long enough for all of them.
            self._seconds = min(self._seconds, PATIENCE_AFTER_A_HANG)
            return Unanswered(str(limit))
        return None

    def _limit(self) -> float:
        """Return the time limit of a law on one case: that of the profile, more for a loss that is slow but answers."""
        stopwatch = self.bench.caller.stopwatch
        usual = stopwatch.inside / stopwatch.calls if stopwatch.calls else 0.0
        return max(self._seconds, CALLS_OF_A_LAW * usual) if self._seconds > PATIENCE_AFTER_A_HANG else self._seconds

    def _hold(self, check: Check, trial: Trial) -> None:
        """Try the law; where only gradients break it, once more beside the case, off every tie and kink."""
        try:
            check.law(trial)
        except Broken as broken:
            if not broken.of_gradient or trial.case.plan is None:
                raise
            check.law(Trial(self.bench, off_ties(trial.case)))
            raise NotExercised("only the gradient differs, and only at a tie") from None

    def _failed(self, check: Check, attempt: Attempt, broken: Broken, tried: int) -> Verdict:
        steps = 0
        # Looking for a smaller case tries a hundred: not with a law that is itself tried on few.
        if attempt.plan is not None and not check.most_cases and not isinstance(broken, Unanswered):
            attempt, broken, steps = self._smallest(check, attempt, broken)
        failure = Failure(
            law=check.statement,
            case=self.described(attempt, steps),
            changed=broken.changed,
            got=broken.got,
            wanted=broken.wanted,
            tolerance=broken.tolerance,
            cause=broken.cause or check.cause,
            traceback=broken.traceback,
            declare=broken.declare,
            seed=self.seed,
        )
        advice = check.severity is Severity.ADVICE or broken.guessed
        status = Status.ADVICE if advice else Status.FAILED
        return Verdict(check.name, check.group, status, failure=failure, cases=tried)

    def _smallest(self, check: Check, attempt: Attempt, broken: Broken) -> tuple[Attempt, Broken, int]:
        """Return the smallest case of the same situation and inputs that breaks the law the same way."""
        assert attempt.plan is not None

        def again(plan: Plan) -> Broken | None:
            outcome = self._once(check, replace(attempt, plan=plan))
            return outcome if isinstance(outcome, Broken) and outcome.guessed == broken.guessed else None

        smallest, steps = smallest_plan(attempt.plan, lambda plan: again(plan) is not None, self.seed)
        found = again(smallest)
        if found is None:
            return attempt, broken, 0
        return replace(attempt, plan=smallest), found, steps


def _broken_by(error: Exception) -> Broken:
    if isinstance(error, LossRaised):
        if out_of_memory(error.error):
            return Broken("it ran out of memory", "a loss of a few numbers", cause="memory that grows with the values")
        return Broken(f"{error.where} raised {error}", "a loss", traceback=error.traceback)
    if isinstance(error, Malformed):
        return Broken(error.returned, error.wanted)
    if isinstance(error, ForeignExit):
        return Broken(str(error), "an exception, or a loss")
    return Broken("it ran out of memory", "a loss of a few numbers")


def _as_exempted(verdict: Verdict, reason: str) -> Verdict:
    if verdict.status in (Status.FAILED, Status.ADVICE):
        return replace(verdict, status=Status.EXPECTED_FAILURE, reason=reason)
    if verdict.status is Status.PASSED:
        failure = Failure(
            law="An exempted law must really fail; this one holds.",
            got=f"exempt[{verdict.check!r}]: {reason!r}",
            wanted="the law broken; remove the exemption",
        )
        return replace(verdict, status=Status.FAILED, failure=failure, reason="exempt, but the law holds")
    return verdict
