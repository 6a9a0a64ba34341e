"""Which inputs receive gradient, and that backward hands on exactly that gradient."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation, LossRaised
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = [
    "any_subset",
    "backward_accumulates",
    "constants_receive_none",
    "learned_is_registered",
    "trainables_receive_gradient",
    "upstream_gradient",
]

NUDGE: Final = 2.0**-12


@check(
    group="gradient_flow",
    statement="Every trainable input that moves L(batch) receives a gradient that is not 0.",
    over=("typical", "full", "holes"),
    why="A model that gets no gradient does not train, whatever the curve of the loss looks like.",
    cause="detach(), .data, no_grad(), argmax or .item() between the trainable input and the loss.",
    fix="Detach only what is constant (reference, old policy, teacher, weights), never the policy's own term.",
    seen_in="huggingface/sentence-transformers@99b0a84c",
)
def trainables_receive_gradient(trial: Trial) -> None:
    base = trial.finite_base
    inert = {**_inert_parameters(trial, base), **_inert_inputs(trial, base)}
    if inert:
        said = "; ".join(f"{key}: the loss moves by {number(by)}, the gradient is 0" for key, by in inert.items())
        raise Broken(said, "a gradient that is not 0")
    if base.gradients and not base.parameters and _all_cases_flat(trial):
        raise Broken(f"L does not depend on {', '.join(base.gradients)}", "a loss that depends on what it trains")


def _inert_inputs(trial: Trial, base: Evaluation) -> dict[str, float]:
    """Return how far L moves with inputs that receive nothing, when no input of this case receives anything."""
    if any(bool((gradient != 0).any()) for gradient in base.gradients.values()):
        return {}
    found = {}
    for slot in trial.case.slots():
        if slot.key in base.gradients:
            # Either way, and little: on a plateau, as of a clip, the edge may be near on one side.
            moved = [trial.evaluate(_nudged(trial.case, slot, by)).value - base.value for by in (NUDGE, -NUDGE)]
            if all(bool(each.abs() > trial.value_tolerance(base).bound) for each in moved):
                found[slot.key] = float(moved[0])
    return found


def _nudged(case: Case, slot: Slot, by: float) -> Case:
    tensor = case.tensor(slot)
    # Log-probabilities stay at most 0.
    return case.with_tensors({slot.key: tensor * (1 + by) + (0.0 if slot.role == "logprobs" else by)})


def _inert_parameters(trial: Trial, base: Evaluation) -> dict[str, float]:
    """Return how far L moves with those of its own parameters that receive nothing on any ordinary batch."""
    found = {}
    for name, gradient in base.parameters.items():
        if trial.bench.usual_gradients.get(name, 0.0) == 0.0:
            loss = trial.bench.caller.moved({name: torch.full_like(gradient, 0.01)}, trial.bench.dtype)
            moved = trial.evaluate(trial.case, loss=loss).value - base.value
            if bool(moved.abs() > trial.value_tolerance(base).bound):
                found[f"parameter {name}"] = float(moved)
    return found


def _all_cases_flat(trial: Trial) -> bool:
    """Return whether no ordinary case of the run gives any gradient at all: no more than the rounding of a constant."""
    return not any(
        any(bool((g.abs() > 4 * trial.eps * float(e.value.abs())).any()) for g in e.gradients.values())
        for e in trial.bench.ordinary_bases()
    )


@check(
    group="gradient_flow",
    statement="What L learns itself is registered: every tensor it keeps that requires grad is among its parameters.",
    over=("full",),
    why="An optimiser, a checkpoint and .to(device) see parameters alone: what is kept beside them never learns.",
    cause="torch.zeros(2, requires_grad=True) as an attribute, or parameters in a plain list or dict.",
    fix="self.x = nn.Parameter(...), nn.ParameterList, nn.ParameterDict.",
    applies=lambda trial: None if isinstance(trial.loss, nn.Module) else "it is no module",
)
def learned_is_registered(trial: Trial) -> None:
    loss = trial.loss
    registered = {id(parameter) for parameter in loss.parameters()}
    for module in loss.modules():
        for name, kept in vars(module).items():
            for tensor in _tensors_in(kept):
                if tensor.requires_grad and tensor.is_leaf and id(tensor) not in registered:
                    # Parameters in a list may be another model's, kept from being registered on purpose.
                    raise Broken(
                        f"{type(module).__name__}.{name} requires grad and is no parameter",
                        "a registered parameter",
                        guessed=isinstance(tensor, nn.Parameter),
                    )


def _tensors_in(kept: object) -> list[Tensor]:
    """Return the tensors an attribute is, or that a list, tuple or dict in it holds; what torch registers left out."""
    if isinstance(kept, Tensor):
        return [kept]
    held = kept.values() if isinstance(kept, dict) else kept if isinstance(kept, list | tuple) else ()
    return [each for each in held if isinstance(each, Tensor)]


@check(
    group="gradient_flow",
    statement="Constant inputs (reference, old policy, teacher, advantages, returns) receive no gradient.",
    over=("typical", "full"),
    why="A gradient into the teacher or the reference pulls the wrong network, or doubles the gradient of a shared one.",
    cause="a target, weight or baseline that is not detached; harmless only as long as nobody passes one with a graph.",
    fix="Call .detach() on every constant where it is read.",
    seen_in="lightly-ai/lightly@6bd7553b",
    own_batch=True,
)
def constants_receive_none(trial: Trial) -> None:
    modest = trial.foreign and not trial.facts.promised("fields")
    if modest and not any(_of_a_teacher(slot) for slot in trial.case.slots()):
        raise NotExercised("it never promised to detach its constants")
    try:
        got = trial.evaluate(trial.case, constants_too=True)
    except LossRaised as refused:
        raise NotExercised(f"it refuses constants that require grad: {refused}") from None
    for slot in trial.case.slots():
        gradient = got.gradients.get(slot.key)
        if slot.trainable or gradient is None or not bool((gradient != 0).any()):
            continue
        if modest and not _of_a_teacher(slot):
            continue
        # Sound losses leave it to the caller to pass constants without a graph; who detaches some means all.
        promised = slot.name in trial.facts.contract.fields or _of_a_teacher(slot)
        raise Broken(
            f"gradient of {slot.key} up to {number(gradient.abs().amax())}",
            "no gradient",
            guessed=not (promised and trial.facts.any_promised and _detaches_another(trial, slot, got))
            or (trial.foreign and not _of_a_teacher(slot)),
        )


def _detaches_another(trial: Trial, live: Slot, got: Evaluation) -> bool:
    """Return whether another constant gets no gradient though the loss follows it."""
    for slot in trial.case.slots():
        gradient = got.gradients.get(slot.key)
        silent = gradient is None or not bool((gradient != 0).any())
        if slot.movable and not slot.trainable and slot.key != live.key and silent:
            moved = trial.case.with_tensors({slot.key: trial.case.tensor(slot) * 0.75})
            if any(trial.moves(trial.finite_base, trial.evaluate(moved))):
                return True
    return False


def _of_a_teacher(slot: Slot) -> bool:
    """Return whether the constant comes from another network that is live, often in the very same step."""
    return not slot.trainable and "teacher" in slot.name.lower()


@check(
    group="gradient_flow",
    statement="Backward is linear in the upstream gradient: (c L).backward() gives c times the gradient of L.",
    over=("typical", "full"),
    why="Gradient accumulation, loss weights and AMP scaling all multiply the loss before backward.",
    cause="a custom autograd.Function whose backward ignores grad_output.",
    fix="Multiply what backward returns by grad_output.",
    seen_in="pytorch/pytorch#94226",
    own_batch=True,
)
def upstream_gradient(trial: Trial) -> None:
    base = trial.finite_base
    got = trial.evaluate(trial.case, upstream=-2.0)
    trial.require_gradients(got.gradients, {k: -2.0 * g for k, g in base.gradients.items()}, "upstream gradient -2")
    trial.require_gradients(got.parameters, {k: -2.0 * g for k, g in base.parameters.items()}, "upstream gradient -2")


@check(
    group="gradient_flow",
    statement="loss.backward(L) adds exactly the gradient of the returned L to an existing .grad.",
    over=("typical", "full"),
    why="The reported loss looks right while the accumulated gradient is n times too large, or replaces earlier steps.",
    cause="an overridden backward that scales the loss, calls zero_grad, or runs twice.",
    fix="Leave backward alone, or let it call loss.backward() once on the tensor that was returned.",
    seen_in="volcengine/verl@e160d3b2e",
    own_batch=True,
)
def backward_accumulates(trial: Trial) -> None:
    base = trial.finite_base
    leaves = trial.bench.caller.backward_into_grad(trial.case, start=1.0)
    for key, leaf in leaves.items():
        assert leaf.grad is not None
        wanted = base.gradients[key] + 1.0
        tolerance = trial.gradient_tolerance(key, wanted)
        both_undefined = leaf.grad.isnan() & wanted.isnan()  # which is for the finite checks to say
        difference = torch.where(both_undefined, 0.0, (leaf.grad - wanted).abs())
        if not bool((difference <= tolerance.bound).all()):
            entry = int(difference.argmax())
            raise Broken(
                f".grad of {key} grew by {number(leaf.grad.flatten()[entry] - 1.0)}",
                number(base.gradients[key].flatten()[entry]),
                tolerance=tolerance,
                changed=".grad was 1 everywhere before backward",
            )


@check(
    group="gradient_flow",
    statement="The gradient of one trainable input does not depend on which others require grad; without any, L is the same.",
    over=("typical", "full"),
    why="Frozen heads and evaluation under no_grad are ordinary, and crash or change a loss that presumes otherwise.",
    cause="needs_input_grad ignored in a custom backward, or a retained buffer that is only set when gradients flow.",
    fix="Guard every input separately in backward, and compute the value the same way with and without gradients.",
    seen_in="linkedin/Liger-Kernel@4a1677b8",
    own_batch=True,
)
def any_subset(trial: Trial) -> None:
    base = trial.finite_base
    trial.require_value(trial.evaluate(trial.case, only=frozenset()), base, "no input requires grad")
    if len(base.gradients) < 2:
        return
    for key in base.gradients:
        got: Evaluation = trial.evaluate(trial.case, only=frozenset((key,)))
        trial.require_same(got, base, f"only {key} requires grad")
