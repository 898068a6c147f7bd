"""The end of a process that does not obey a signal, because a step or a collective hangs.

Python calls a signal's handler between two instructions of the main thread: while that thread waits
inside a collective it is never called. Hence a thread of its own, which hears of a signal by the
socket that the interpreter writes to at once.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from stepseg.lit.stopping import SIGNALS


class Grace:
    """Ends the process when nothing has moved for some time after a signal; a context.

    Args:
        seconds: between the signal, or what has moved since then, and the end.
        give_up: called with the signal at the end; returns the exit code.

    """

    def __init__(self, seconds: float, give_up: Callable[[int], int]) -> None:
        if not isinstance(seconds, int | float) or seconds <= 0:
            raise ValueError(f"stop.grace_seconds is a positive number, got {seconds!r}")
        self.seconds, self.give_up = seconds, give_up
        self._moved = 0.0
        self._writer: socket.socket | None = None
        self._previous = -1

    def moved(self) -> None:
        """Say that a batch has ended: a validation that is being finished does not hang."""
        self._moved = time.monotonic()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            number = self._writer.fileno()
            self._previous = signal.set_wakeup_fd(number, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reader,), daemon=True, name="grace").start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            signal.set_wakeup_fd(self._previous)
            self._writer.close()  # the thread reads the end of it

    def _watch(self, reader: socket.socket) -> None:
        with reader:
            received = 0
            while not received:
                heard = reader.recv(64)
                if not heard:
                    return
                received = next((number for number in heard if number in SIGNALS), 0)
            self.moved()
            while (left := self._moved + self.seconds - time.monotonic()) > 0:
                reader.settimeout(left)
                try:
                    if not reader.recv(64):
                        return
                except TimeoutError:
                    continue
        os._exit(self.give_up(received))


def _forget_in_child() -> None:
    """Signals of a process forked from here, such as a loader's, are not signals to this one."""
    signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
