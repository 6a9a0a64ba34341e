"""An engine whose verdicts are written down, so that the pytest side is tested without torch running anything."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from loss_conformance.run_options import RunOptions
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.subject.subject import TargetError
from loss_conformance.verdict import Failure, Status, Verdict

MASK_STATEMENT = "L(batch) must not change when only content at masked positions changes."


def make_check(name: str, group: str, statement: str = "A law.", **changed: Any) -> Any:
    facts: dict[str, Any] = {
        "over": ("typical",),
        "severity": "must",
        "cost": "quick",
        "why": "it matters",
        "cause": "",
        "fix": "repair it",
        "seen_in": "",
        "applies": lambda trial: None,
        "requires": (),
        "law": lambda trial: None,
    }
    return SimpleNamespace(name=name, group=group, statement=statement, **{**facts, **changed})


CHECKS = [
    make_check("scalar_output", "interface"),
    make_check("finite_value", "finite", requires=("scalar_output",)),
    make_check(
        "mask_value",
        "masking",
        MASK_STATEMENT,
        cause="the mask multiplies after the mean, or one operand of a difference is unmasked.",
        fix="where(mask, x, 0) before exp/log; divide by mask.sum().clamp(min=1).",
        seen_in="volcengine/verl#2377",
        requires=("finite_value",),
    ),
    make_check("lower_bound", "positivity"),
    make_check("host_sync", "device_parity", severity="advice"),
    make_check("batch_order", "symmetry"),
]

MASK_FAILURE = Failure(
    law=MASK_STATEMENT,
    case="B=2 S=3, token_mask=[[0,1,0],[0,1,1]]   (seed 12, shrunk in 9 steps)",
    changed='model_outputs["next_token_logprobs"][0,1]: -1.0 → -3.0   (masked)',
    got="0.7413",
    wanted="0.6931",
    tolerance="2e-7 (8 ulp float32, 3 terms)",
    seed=12,
)

SOUND = {
    "lower_bound": (Status.NOT_APPLICABLE, "lower_bound is not known", None),
    "host_sync": (Status.ADVICE, "", Failure(law="No host synchronisation.", got="1 call of .item()", wanted="none")),
    "batch_order": (Status.EXPECTED_FAILURE, "sorts on purpose", Failure(law="L(perm) = L.", got="1", wanted="2")),
}
MASK_BUG = {**SOUND, "mask_value": (Status.FAILED, "", MASK_FAILURE)}
NO_SCALAR = {
    **SOUND,
    "scalar_output": (Status.FAILED, "", Failure(law="The loss is a scalar.", got="a list", wanted="a tensor")),
    "finite_value": (Status.BLOCKED, "blocked by scalar_output", None),
    "mask_value": (Status.BLOCKED, "blocked by finite_value", None),
}
EXEMPT_HOLDS = {**SOUND, "batch_order": (Status.FAILED, "exempt, but the law holds", None)}
NOTHING_APPLIES = {check.name: (Status.NOT_APPLICABLE, "it has no inputs", None) for check in CHECKS}

LOSSES: dict[str, dict[str, Any]] = {
    "mymodule.Sound": SOUND,
    "mymodule.MaskBug": MASK_BUG,
    "mymodule.NoScalar": NO_SCALAR,
    "mymodule.ExemptHolds": EXEMPT_HOLDS,
    "mymodule.NothingApplies": NOTHING_APPLIES,
    "a.py:Loss": SOUND,
    "b/a.py:Loss": MASK_BUG,
    "mymodule.Crashes": {"finite_value": ZeroDivisionError("division by zero")},
    "mymodule.Unfeedable": {check.name: CannotFeed("it reads batch['x'], which is unknown") for check in CHECKS},
}


class FakeEngine:
    def __init__(self, target: str) -> None:
        self.target = target

    def checks(self) -> list[Any]:
        return CHECKS

    def run(self, name: str) -> Verdict:
        check = next(check for check in CHECKS if check.name == name)
        answer = LOSSES[self.target].get(name, (Status.PASSED, "", None))
        if isinstance(answer, Exception):
            raise answer
        status, reason, failure = answer
        return Verdict(check.name, check.group, status, reason=reason, failure=failure, cases=3, seconds=0.01)

    def facts(self) -> tuple[str, ...]:
        return ("family = 'preference' (declared)", "level = 'pair' (inferred: it reads rows in pairs)")

    def warnings(self) -> tuple[str, ...]:
        return ("the clip region was never entered",)

    def close(self) -> None:
        pass

    def header(self) -> tuple[str, ...]:
        return (f"{self.target}: Loss, called through the interface", "profile standard, seed 0")


def open_fake(options: RunOptions, target: str) -> FakeEngine:
    if target == "mymodule.Nowhere":
        raise TargetError("mymodule.Nowhere: module 'mymodule' has no 'Nowhere'; did you mean 'Now'?")
    if target == "mymodule.Raises":
        raise TargetError("mymodule raised while it was imported", 'File "mymodule.py", line 1\nZeroDivisionError: no')
    if target == "mymodule.NeverFed":
        raise CannotFeed("no inputs were found", 'File "mymodule.py", line 7, in forward\nKeyError: 3')
    return FakeEngine(target)


def install(replace: Callable[[Any, str, Any], object] = setattr) -> None:
    """Make every run open fake engines."""
    replace(RunOptions, "engine", open_fake)
