"""Which calling protocol a loss follows, decided by what it looks like."""

from __future__ import annotations

from typing import Any, Final

from loss_conformance.subject.interface import InterfaceProtocol, MappingsProtocol
from loss_conformance.subject.protocol import CallingProtocol
from loss_conformance.subject.signatures import parameters_of
from loss_conformance.subject.subject import TargetError

__all__ = ["choose_protocol"]

_NEMO_RL: Final = {"data", "global_valid_seqs", "global_valid_toks"}


def choose_protocol(loss: Any) -> CallingProtocol:
    """Return the protocol that ``loss`` follows.

    Raises:
        TargetError: it cannot be called at all.
    """
    if callable(getattr(loss, "compute_loss", None)):
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
