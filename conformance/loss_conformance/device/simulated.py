"""A simulated accelerator: CPU tensors that claim to live elsewhere, and refuse to meet those that do not.

A tensor on it is a view of a CPU tensor as a subclass, so values and autograd are the CPU's own. What a real device
would refuse, an operation on a device tensor and a CPU tensor with at least one axis, raises ``DeviceMixed``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.variable import Variable, VariableMeta
from torch.overrides import TorchFunctionMode

__all__ = ["SIMULATED", "DeviceMixed", "OnDevice", "SimulatedDevice"]

SIMULATED: Final = torch.device("privateuseone", 0)
# Real devices take CPU indices and lengths, and copies between devices are what these are for.
_MAY_MIX: Final = {
    Tensor.__getitem__,
    Tensor.__setitem__,
    Tensor.copy_,
    Tensor.type_as,
    torch._has_compatible_shallow_copy_type,
    torch.ctc_loss,
    torch.nn.functional.ctc_loss,
}
_READ_BY_NUMPY: Final[set[Any]] = {Tensor.numpy, Tensor.__array__}
_COPIES: Final = {torch.tensor, torch.as_tensor, torch.asarray}
_READS_THE_DEVICE: Final[set[Any]] = {torch._C._nn._parse_to, torch.device}


class DeviceMixed(RuntimeError):
    """An operation was given tensors of two devices, or a library that knows the CPU alone a tensor of this one."""


class OnDevice(Tensor):
    """A tensor that claims to be on the simulated device."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The simulated device."""
        return SIMULATED

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """As on the accelerator most code is written for: ``"cuda" if x.is_cuda else "cpu"`` names where ``x`` is."""
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        """Never."""
        return False

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _READ_BY_NUMPY:
            raise DeviceMixed("numpy was given a device tensor; call .cpu() first")
        if func not in _MAY_MIX and _name(func) not in ("to", "cpu", "__get__", "__set__"):
            _refuse_cpu_tensors(func, [*args, *kwargs.values()])
        if func is Tensor.cuda:
            return args[0]
        if func is Tensor.cpu or _moves_to_cpu(func, args, kwargs):
            return args[0].as_subclass(Tensor)
        args, kwargs = _without_device(args), {key: _on_cpu(value) for key, value in kwargs.items()}
        return super().__torch_function__(func, tuple(types), args, kwargs)  # type: ignore[no-untyped-call]


class SimulatedDevice(TorchFunctionMode):
    """While active, factories called with ``device=`` the simulated one give tensors on it."""

    def __enter__(self) -> SimulatedDevice:
        # What a module moves here is another class of tensor, which writing into the old one would lose.
        self._overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        # Its constructor is no function a mode gets to see, and forgets the class of what it wraps.
        VariableMeta.__call__ = _variable  # type: ignore[assignment, method-assign]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        del VariableMeta.__call__
        torch.__future__.set_overwrite_module_params_on_conversion(self._overwrites)
        super().__exit__(*raised)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.cuda:
            return args[0].as_subclass(OnDevice)
        asked = [value for value in (*args, *kwargs.values()) if _is_simulated(value)]
        if func in _COPIES and isinstance(args[0], OnDevice) and "device" not in kwargs:
            return func(*args, **kwargs).as_subclass(OnDevice)
        if not asked or func in _READS_THE_DEVICE or any(isinstance(value, OnDevice) for value in args):
            return func(*args, **kwargs)
        result = func(*_without_device(args), **{key: _on_cpu(value) for key, value in kwargs.items()})
        return result.as_subclass(OnDevice) if isinstance(result, Tensor) else result

    def put(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` as a tensor on this device; it stays part of the same graph."""
        return tensor.as_subclass(OnDevice)


def _variable(cls: type[Variable], *args: Any, **kwargs: Any) -> Any:
    """Wrap a tensor as old code does, ``torch.autograd.Variable(x)``: what is wrapped stays where it is."""
    made = type.__call__(cls, *args, **kwargs)
    wrapped = args[0] if args else kwargs.get("data")
    return made.as_subclass(OnDevice) if isinstance(wrapped, OnDevice) else made


def _refuse_cpu_tensors(func: Callable[..., Any], given: list[Any]) -> None:
    for value in given:
        if isinstance(value, list | tuple):
            _refuse_cpu_tensors(func, list(value))
        elif isinstance(value, Tensor) and not isinstance(value, OnDevice) and value.dim() > 0:
            if torch._C._are_functorch_transforms_active():
                raise NotImplementedError("torch.func wraps tensors in a way the simulated device cannot follow")
            raise DeviceMixed(
                f"{_name(func)} was given a CPU tensor of shape {tuple(value.shape)} beside device tensors"
            )


def _moves_to_cpu(func: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    if func is not Tensor.to:
        return False
    wanted = [*args[1:], *kwargs.values()]
    return any(value == "cpu" or (isinstance(value, torch.device) and value.type == "cpu") for value in wanted)


def _without_device(args: Any) -> tuple[Any, ...]:
    return tuple(_on_cpu(value) for value in args)


def _on_cpu(value: Any) -> Any:
    return torch.device("cpu") if _is_simulated(value) else value


def _is_simulated(value: Any) -> bool:
    names = (SIMULATED.type, "cuda")
    if isinstance(value, torch.device):
        return value.type in names
    return isinstance(value, str) and value.split(":")[0] in names


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", str(func))
