"""The parent's side of one child: asking it, and noticing that it will not answer."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import time
import warnings
from collections.abc import Callable
from multiprocessing import Pipe
from typing import Any, Final

from loss_conformance.apart.child import RAISED, UNFIT, serve
from loss_conformance.apart.last_words import how_it_ended, where_it_was
from loss_conformance.apart.marker import Marker
from loss_conformance.attempt import Attempt
from loss_conformance.engine import Engine

__all__ = ["ChildProcess", "Died", "UnfitChild"]

GRACE: Final = 5.0
"""Seconds a child gets beyond its own time limit, which it keeps itself as long as Python code runs in it."""

SLICE: Final = 0.25
FIRST_WORD: Final = 20.0


class UnfitChild(Exception):
    """Torch does not work in a child of this process."""


class Died(Exception):
    """The child is no more.

    Attributes:
        attempt: what it was doing, if that is known.
        traceback: the user's own frames, if they are known.
        hung: it was ended because it gave no answer.
    """

    def __init__(self, how: str, attempt: Attempt | None, traceback: str, *, hung: bool) -> None:
        super().__init__(how)
        self.attempt, self.traceback, self.hung = attempt, traceback, hung


class ChildProcess:
    """A fork of this process that answers for an engine.

    Raises:
        UnfitChild: the fork cannot work.
    """

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._marker = Marker()
        self._trace = os.memfd_create("loss-conformance")
        self._status: int | None = None
        self._connection, theirs = Pipe()
        parent = os.getpid()
        with warnings.catch_warnings():
            # Python warns of forks beside threads. The child uses none of them, and _unfit() tells where torch would.
            warnings.simplefilter("ignore")
            try:
                self._pid = os.fork()
            except OSError as error:
                raise UnfitChild(str(error)) from None
        if not self._pid:
            serve(make, theirs, self._marker, self._trace, parent)
        theirs.close()
        _alive.add(self)
        with contextlib.suppress(OSError):
            os.setpgid(self._pid, self._pid)
        self._first_word()

    def _first_word(self) -> None:
        word: Any = (UNFIT, "it gave no sign of life")
        with contextlib.suppress(EOFError, OSError):
            if self._connection.poll(FIRST_WORD):
                word = self._connection.recv()
        if word[0] == UNFIT:
            self.end()
            raise UnfitChild(word[1])

    def ask(self, method: str, *arguments: Any) -> Any:
        """Return what the method of the engine returns, and raise what it raises.

        Raises:
            Died: there is no answer.
        """
        try:
            self._connection.send((method, arguments))
            self._wait()
            kind, answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        except BaseException:  # interrupted: what comes next would be the answer to this question
            self.end()
            raise
        if kind == RAISED:
            raise answer
        return answer

    def _wait(self) -> None:
        while not self._connection.poll(SLICE):
            if self._ended() and not self._connection.poll():
                raise EOFError  # what it started itself may still hold its end open
            if self._marker.late_by() > GRACE:
                raise self._hung()

    def _ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def _hung(self) -> Died:
        attempt = self._marker.attempt()
        os.kill(self._pid, signal.SIGABRT)  # on which it writes where it was
        self._end_within(1.0)
        return Died("no answer, and nothing that could interrupt it", attempt, where_it_was(self._trace), hung=True)

    def _died(self) -> Died:
        self._end_within(1.0)
        assert self._status is not None
        died = Died(how_it_ended(self._status), self._marker.attempt(), where_it_was(self._trace), hung=False)
        self.end()
        return died

    def _end_within(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._ended() and time.monotonic() < until:
            time.sleep(0.01)
        if not self._ended():
            os.kill(self._pid, signal.SIGKILL)
            _, self._status = os.waitpid(self._pid, 0)

    @property
    def over(self) -> bool:
        """Whether it can be asked nothing more."""
        return self not in _alive

    def end(self) -> None:
        """End the child and everything it started. Ending it twice does nothing."""
        if self.over:
            return
        _alive.discard(self)
        self._connection.close()
        with contextlib.suppress(OSError):
            os.killpg(self._pid, signal.SIGKILL)
        if self._status is None:
            with contextlib.suppress(OSError):
                _, self._status = os.waitpid(self._pid, 0)
        os.close(self._trace)


_alive: set[ChildProcess] = set()
os.register_at_fork(after_in_child=_alive.clear)


@atexit.register
def _end_all() -> None:
    for child in list(_alive):
        child.end()
