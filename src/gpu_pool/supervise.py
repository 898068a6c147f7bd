"""``python -m gpu_pool.supervise GRACE COMMAND…``: run a job and leave none of it behind.

One supervisor stands between the launcher and each job. Its stdin is a pipe that the launcher holds
open: when the launcher dies, however hard, the pipe closes and the supervisor ends the job. A byte
in it asks for the same, another one at once, as SIGTERM does. When the job's main process dies, its
other processes (DDP ranks waiting for it, loader workers) are ended too. If the supervisor itself
is killed, the kernel kills the job's main process and the launcher the rest.

Imports nothing heavy: there is one of these per running job. Not here: what the end means; the
launcher reads the job's `result.json`.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from gpu_pool.processes import adopt_orphans, die_with_parent, end, living, wait_until_gone

LEFTOVER_PATIENCE = 5.0
"""Seconds between TERM and KILL for processes whose main process has died."""

BEAT = 0.1
"""Seconds between two looks at the job."""


class Supervisor:
    """Runs one command to its end, or ends it.

    Args:
        grace: seconds that a job gets between TERM and KILL, and that its helpers get to finish
            after it has succeeded.
        beat: called all the time; the job ends at once when it returns False.

    """

    def __init__(
        self, command: list[str], grace: float, beat: Callable[[], bool] = lambda: True
    ) -> None:
        self.command = command
        self.grace = grace
        self.beat = beat
        self.asked = 0
        """How often we were asked to stop; twice means at once."""
        self.alone = False
        """Whether the launcher is gone."""

    def run(self) -> int:
        """Run; returns the exit code of the job, 128 + the signal if one ended it."""
        adopt_orphans()
        signal.signal(signal.SIGTERM, self._stop)
        for ignored in (signal.SIGINT, signal.SIGHUP):
            # a handler, not SIG_IGN: the job would inherit that
            signal.signal(ignored, lambda *_: None)
        process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=die_with_parent
        )
        while process.poll() is None and not self.asked:
            self._look_for_launcher(BEAT)
        if process.returncode is None:
            self._ask_to_end(process)
        self._end_rest(process)
        code = process.returncode
        return code if code >= 0 else 128 - code

    def _stop(self, signum: int, frame: Any) -> None:
        self.asked += 1

    def _look_for_launcher(self, seconds: float) -> None:
        """Wait a little, less if the launcher speaks or closes the pipe."""
        if self.alone:
            time.sleep(seconds)
        elif select.select([sys.stdin], [], [], seconds)[0]:
            self.alone = not os.read(sys.stdin.fileno(), 1)
            self.asked = max(self.asked, 1) if self.alone else self.asked + 1
        if not self.beat():
            self.asked = 2

    def _ask_to_end(self, process: subprocess.Popen[bytes]) -> None:
        """TERM to the main process alone: it tells its ranks, and its workers must stay alive."""
        process.terminate()
        until = time.monotonic() + self.grace
        while process.poll() is None and time.monotonic() < until and self.asked < 2:
            self._look_for_launcher(BEAT)
        if process.poll() is None:
            _say(f"still running {self.grace:g} s after being asked to end: killed")
            process.kill()
        process.wait()

    def _end_rest(self, process: subprocess.Popen[bytes]) -> None:
        def rest() -> list[int]:
            self.beat()
            return living(os.getpid(), process.pid)

        if process.returncode == 0 and not self.asked:
            wait_until_gone(rest, self.grace)
        count = end(rest, patience=LEFTOVER_PATIENCE)
        if count:
            _say(f"the main process ended with {process.returncode}; ended {count} it left behind")


def _say(message: str) -> None:
    print(f"gpu_pool: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(Supervisor(sys.argv[2:], float(sys.argv[1])).run())
