"""The interface: what comes back, and what must be left alone."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import Severity, check
from loss_conformance.global_state import changed_state, global_state
from loss_conformance.report.numbers import number
from loss_conformance.side_effects import observed_side_effects
from loss_conformance.trial import Broken, NotExercised, Trial
from loss_conformance.watched_state import NUMBERS_STAY_THE_SAME

__all__ = [
    "copies",
    "evaluation_keeps_state",
    "global_state_kept",
    "inputs_untouched",
    "quiet",
    "repeatable",
    "scalar_output",
]


@check(
    group="interface",
    statement="L(batch) is a 0-dim floating-point tensor attached to the graph of what it is to train.",
    over=("typical", "full", "bare"),
    why="An optimiser can only follow a scalar that remembers where it came from.",
    cause="float(), .item(), .detach(), torch.no_grad() or a tensor rebuilt from numbers on the way to the result.",
    fix="Return the tensor itself, reduced by sum() or mean(), and build nothing from Python numbers.",
    seen_in="OpenRLHF/OpenRLHF@1fc0ff25",
    requires=(),
    own_batch=True,
)
def scalar_output(trial: Trial) -> None:
    base = trial.base
    anything_to_train = any(slot.trainable for slot in trial.case.slots()) or base.parameters
    if anything_to_train and not base.attached:
        raise Broken("a tensor detached from everything trainable", "a tensor attached to the graph")


@check(
    group="interface",
    statement="Calling L and its backward leaves every input as it was: content, requires_grad and .grad.",
    over=("typical", "holes", "absent_rows", "never_chosen"),
    why="The next loss on the same batch, or the next accumulation step, sees the changed tensors.",
    cause="an in-place operation (masked_fill_, div_, clamp_, x[...] = ...) on an input or on a view of it.",
    fix="Use the out-of-place form (masked_fill, /, torch.where), or clone first.",
    seen_in="NVIDIA-NeMo/Automodel#3917",
    own_batch=True,
)
def inputs_untouched(trial: Trial) -> None:
    leaves, tensors = {}, {}
    for slot in trial.case.slots():
        tensor = trial.case.tensor(slot).clone()
        if slot.trainable and tensor.is_floating_point():
            leaves[slot.key] = tensor.requires_grad_()
            # Not the leaf itself: an in-place write to a leaf raises, to the result of a model it goes through.
            tensors[slot.key] = tensor.clone()
        else:
            tensors[slot.key] = tensor
    before = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    flags = {key: tensor.requires_grad for key, tensor in tensors.items()}
    trial.bench.caller.call(trial.case.with_tensors(tensors))
    for key, tensor in tensors.items():
        if tensor.shape != before[key].shape or not _identical(tensor.detach(), before[key]):
            raise Broken(
                f"{key} was changed in place{_first_difference(tensor.detach(), before[key])}", "its old content"
            )
        if tensor.requires_grad != flags[key]:
            raise Broken(f"{key}.requires_grad became {tensor.requires_grad}", f"{flags[key]}")
    for key, leaf in leaves.items():
        if leaf.grad is not None:
            raise Broken(f"{key}.grad was filled by the forward call", "no gradient before backward is called")


@check(
    group="interface",
    statement="L(batch) called twice gives the same value and gradient, with an evaluation under no_grad between.",
    over=("typical", "holes"),
    why="A loss that remembers earlier calls, or draws random numbers, trains on something else than its formula.",
    cause="state updated in forward, a memory bank filled on evaluation calls, or a hidden random draw.",
    fix="Keep state out of compute_loss or declare Contract(stateful=True); pass random numbers in or declare stochastic=True.",
    seen_in="lightly-ai/lightly@78d66c01",
    applies=lambda trial: unless("stateful")(trial) or _random_by_contract(trial),
    own_batch=True,
)
def repeatable(trial: Trial) -> None:
    if trial.facts.contract.stochastic:
        raise Broken(
            "another value from other random numbers",
            "the same value twice",
            declare="Contract(stochastic=True)",
            guessed=True,
        )
    loss = trial.bench.caller.own_copy(trial.case)
    first = trial.evaluate(trial.case, loss=loss, same_object=True)
    with torch.no_grad():
        trial.bench.caller.call(
            trial.case.with_tensors({key: t.clone() for key, t in trial.case.tensors.items()}), loss
        )
    second = trial.evaluate(trial.case, loss=loss, same_object=True)
    # A buffer that is registered and moves is kept on purpose, which its author need not have declared.
    meant = trial.foreign and not trial.facts.any_promised and _moves_a_buffer(trial.loss, loss)
    declare = "Contract(stateful=True)" if meant else ""
    if not _identical(first.value, second.value):
        said = f"first {number(first.value)}, then {number(second.value)}"
        raise Broken(said, "the same value twice", guessed=meant, declare=declare)
    for key, gradient in first.gradients.items():
        if not _identical(gradient, second.gradients[key]):
            said = f"another gradient of {key} on the second call"
            raise Broken(said, "the same gradient twice", guessed=meant, declare=declare)


def _moves_a_buffer(before: Any, after: Any) -> bool:
    if not isinstance(before, nn.Module):
        return False
    kept = dict(before.named_buffers())
    return any(
        name not in kept or not torch.equal(kept[name].to(buffer), buffer) for name, buffer in after.named_buffers()
    )


@check(
    group="interface",
    statement="In evaluation mode, under no_grad, a call changes nothing that L keeps.",
    over=("typical", "full"),
    why="A validation pass between two steps then changes what the next step trains on, and a resumed run is another run.",
    cause="a running mean, a queue or a counter updated on every call.",
    fix="Update under `if self.training:`.",
    seen_in="lightly-ai/lightly@78d66c01",
    applies=lambda trial: None if trial.facts.contract.stateful else "stateful = False",
)
def evaluation_keeps_state(trial: Trial) -> None:
    if not isinstance(trial.loss, nn.Module):
        raise NotExercised("it has no evaluation mode")
    if trial.bench.caller.keeps_something(trial.case, evaluating=True):
        raise Broken("another state after an evaluation", "the state it had", guessed=trial.foreign)


@check(
    group="interface",
    statement="Calling L and its backward leaves the process as it was: random state, modes of torch, its functions, directory.",
    why="Everything after the loss runs with the changed state: other random numbers, no gradients, another precision.",
    cause="torch.manual_seed, torch.set_default_dtype, a random draw, os.chdir, or a function of torch replaced for a moment.",
    fix="Use the context-manager form (torch.no_grad(), torch.random.fork_rng()), or a torch.Generator of its own.",
    own_batch=True,
)
def global_state_kept(trial: Trial) -> None:
    # From a known state that no call leaves behind: setting the same thing on every call must show as well.
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.rand(1), random.random(), numpy.random.random()
    before = global_state()
    trial.evaluate(trial.case, grad_mode_as_left=True)
    changed = changed_state(before, global_state())
    if trial.facts.contract.stochastic:
        changed = {name: how for name, how in changed.items() if "random state" not in name}
    if changed:
        harmless = changed.keys() <= NUMBERS_STAY_THE_SAME
        raise Broken("; ".join(changed.values()), "no change", guessed=trial.foreign and harmless)


@check(
    group="interface",
    statement="Calling L and its backward prints nothing, warns nothing and leaves no file.",
    severity=Severity.ADVICE,
    why="A loss runs millions of times, on every rank: a line each floods the log, a file each fills the disk.",
    cause="a debugging print, a deprecated call, or logging to a file from inside the loss.",
    fix="Return numbers as metrics, (loss, {'name': value}), and let the training loop log them.",
    own_batch=True,
)
def quiet(trial: Trial) -> None:
    trial.evaluate(trial.case)
    with observed_side_effects() as effects:
        trial.evaluate(trial.case)
    if effects.lines():
        raise Broken("; ".join(effects.lines()), "silence")


@check(
    group="interface",
    statement="A copy of L (deepcopy, pickle, state_dict) gives the value of the original.",
    why="Checkpoints, data-parallel replicas and spawned workers run the copy.",
    cause="a lambda, an open handle or a tensor kept outside parameters and buffers.",
    fix="Use module-level functions instead of lambdas, and register tensors with register_buffer.",
    applies=lambda trial: None if isinstance(trial.loss, nn.Module) else "only objects with state are copied",
)
def copies(trial: Trial) -> None:
    wanted = trial.finite_base
    for way, make in (("copy.deepcopy", copy.deepcopy), ("pickle", _pickled)):
        try:
            other = make(trial.loss)
        except Exception as error:
            raise Broken(f"{way} raised {type(error).__name__}: {error}", "a copy", guessed=True) from None
        got = trial.evaluate(trial.case, loss=other)
        trial.require_same(got, wanted, changed=f"the loss replaced by its {way} copy")


def _random_by_contract(trial: Trial) -> str | None:
    return unless("stochastic")(trial) if trial.facts.promised("stochastic") else None


def _pickled(loss: object) -> object:
    return pickle.loads(pickle.dumps(loss))


def _identical(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _first_difference(now: Tensor, before: Tensor) -> str:
    if now.shape != before.shape:
        return f": shape {tuple(before.shape)} → {tuple(now.shape)}"
    differs = ~((now == before) | (now.isnan() & before.isnan()))
    if not bool(differs.any()):
        return ""
    position = [int(i) for i in differs.nonzero()[0]]
    old, new = before[tuple(position)], now[tuple(position)]
    return f": {position} {number(old)} → {number(new)}"
