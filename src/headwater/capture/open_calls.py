"""Which calls a thread is inside of, also where an exception cuts them short."""

from __future__ import annotations

import sys
import threading
from types import FrameType

from headwater.capture import torch_internals
from headwater.capture.observations import ObservedCall


class OpenCalls:
    """The observed calls that have begun and not ended, per thread."""

    def __init__(self) -> None:
        self._stacks = threading.local()

    def running(self) -> list[ObservedCall]:
        """The calls that this thread is inside of, innermost last.

        Those that ended in an exception are dropped here: no hook tells of a Ctrl-C, but the Python frame is gone.
        """
        stack = self._stack
        while stack and not _is_running(stack[-1].frame):
            stack.pop().forget_graph()
        return stack

    def begin(self, call: ObservedCall) -> None:
        """Puts a call, of whose module a hook is running, on top."""
        call.frame = torch_internals.frame_of_call()
        self._stack.append(call)

    def returning(self) -> ObservedCall | None:
        """The innermost call, if the hook that asks belongs to it (second runs are not always observed)."""
        calls = self.running()
        return calls[-1] if calls and calls[-1].frame is torch_internals.frame_of_call() else None

    def end(self, call: ObservedCall) -> None:
        """Takes the innermost call away, which is this one."""
        self._stack.pop()
        call.frame = None

    def clear(self) -> None:
        """Forgets every call, of all threads."""
        self._stacks = threading.local()

    @property
    def _stack(self) -> list[ObservedCall]:
        try:
            return self._stacks.calls
        except AttributeError:
            self._stacks.calls = []
            return self._stacks.calls


def _is_running(frame: FrameType | None) -> bool:
    current = sys._getframe(1)
    while current is not None and current is not frame:
        current = current.f_back
    return current is not None or frame is None
