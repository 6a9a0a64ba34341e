"""Which calling protocol a loss follows, decided by what it looks like."""

from __future__ import annotations

import inspect
from typing import Any, Final

from torch import nn

from loss_conformance.subject.interface import InterfaceProtocol, MappingsProtocol
from loss_conformance.subject.parameter_names import meaning_of
from loss_conformance.subject.protocol import CallingProtocol
from loss_conformance.subject.signatures import parameters_of
from loss_conformance.subject.subject import TargetError
from loss_reference.interface import LossFunction

__all__ = ["choose_protocol"]

_NEMO_RL: Final = {"data", "global_valid_seqs", "global_valid_toks"}


def choose_protocol(loss: Any) -> CallingProtocol:
    """Return the protocol that ``loss`` follows.

    Raises:
        TargetError: it cannot be called at all.
    """
    if _computes_from_mappings(loss):
        return InterfaceProtocol()
    if not callable(loss):
        raise TargetError(f"{type(loss).__name__} {loss!r} is no loss: it has no compute_loss and cannot be called")
    names = [parameter.name for parameter in parameters_of(loss)]
    if names[:2] == ["batch", "model_outputs"]:
        return MappingsProtocol()
    if set(names) >= _NEMO_RL:
        from loss_conformance.subject.nemo_rl import NeMoRLProtocol

        return NeMoRLProtocol()
    from loss_conformance.subject.by_name import ByNameProtocol

    return ByNameProtocol()


def _computes_from_mappings(loss: Any) -> bool:
    """Return whether ``loss`` has this project's ``compute_loss``, not a helper of that name behind its ``forward``."""
    compute = getattr(loss, "compute_loss", None)
    if not callable(compute) or isinstance(loss, LossFunction) or not callable(loss):
        return callable(compute)
    try:
        inspect.signature(compute).bind("batch", "model_outputs")
    except TypeError:
        return False
    except ValueError:
        return True
    # Two tensors by name, `compute_loss(self, logits, labels)`, are what a `forward` beside it hands on.
    forwards = isinstance(loss, nn.Module) and type(loss).forward is not nn.Module.forward
    return not (forwards and all(meaning_of(parameter.name) for parameter in parameters_of(compute)))
