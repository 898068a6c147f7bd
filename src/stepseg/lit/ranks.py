"""Several processes on one machine: when one dies, all end, soon and with a word about it.

Lightning kills the first process without letting it say why. Processes that a batch system or
torchrun started are theirs to watch (`srun --kill-on-bad-exit`).
"""

import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

PARENT = "STEPSEG_FIRST_PROCESS"
POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0
"""How long the first process may take to end by itself after another has died."""


class RankWatch(threading.Thread):
    """Watches the other processes from within the first one.

    Args:
        processes: of ranks 1, 2, ...
        on_death: called with a message before this process is ended by force.

    """

    def __init__(
        self, processes: Sequence[subprocess.Popen[Any]], on_death: Callable[[str], None]
    ) -> None:
        super().__init__(daemon=True, name="rank-watch")
        self.processes, self.on_death = list(processes), on_death

    def message(self, wait: float = 0.0) -> str | None:
        """What has happened, or None; waits that many seconds for something to happen."""
        end = time.monotonic() + wait
        while True:
            for rank, process in enumerate(self.processes, start=1):
                code = process.poll()
                if code:
                    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                    return (
                        f"the process of rank {rank} {how}; the training has ended on all ranks. "
                        f"Continue with ckpt_path=last once the cause is mended"
                    )
            if time.monotonic() >= end:
                return None
            time.sleep(0.05)

    def run(self) -> None:
        while (message := self.message()) is None:
            if all(process.poll() == 0 for process in self.processes):
                return
            time.sleep(POLL_SECONDS)
        for process in self.processes:
            process.kill()
        time.sleep(GRACE_SECONDS)  # most collectives notice, and the usual way out is the better
        self.on_death(message)
        print(message, file=sys.stderr, flush=True)
        os._exit(1)


class WatchedLauncher(_SubprocessScriptLauncher):
    """Starts the other processes, and watches them."""

    watch: RankWatch | None = None
    on_death: Callable[[str], None] = staticmethod(lambda message: None)

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(
            num_devices=self.num_processes, num_nodes=self.num_nodes
        )
        if not self.cluster_environment.creates_processes_externally:
            os.environ[PARENT] = str(os.getpid())
            self._call_children_scripts()
            self.watch = RankWatch(self.procs, self.on_death)
            self.watch.start()
        elif self.cluster_environment.local_rank() > 0 and PARENT in os.environ:
            threading.Thread(target=_follow_parent, daemon=True, name="follow-parent").start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


class WatchedDDP(DDPStrategy):
    """Lightning's `ddp` with the launcher above.

    Args:
        timeout_seconds: a process that waits longer for the others fails.

    """

    on_death: Callable[[str], None] = staticmethod(lambda message: None)
    """Called with a message when another process has died and this one cannot go on."""

    def __init__(self, timeout_seconds: float = 1800.0) -> None:
        if not isinstance(timeout_seconds, int | float) or timeout_seconds <= 0:
            raise ValueError(f"ranks.timeout_seconds is a positive number, got {timeout_seconds!r}")
        super().__init__(timeout=timedelta(seconds=timeout_seconds))
        self.timeout_seconds = timeout_seconds

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        if isinstance(self._launcher, _SubprocessScriptLauncher):
            assert self.cluster_environment is not None
            self._launcher = WatchedLauncher(
                self.cluster_environment, self.num_processes, self.num_nodes
            )
            self._launcher.on_death = lambda message: self.on_death(message)

    def failure(self, error: BaseException) -> str | None:
        """What a failed collective says of the other processes; None: it was no collective.

        PyTorch itself ends a process whose NCCL collective takes too long, with a similar message.
        """
        if _TIMED_OUT.search(str(error)):
            return (
                f"rank {self.global_rank} waited longer than {self.timeout_seconds:g} s "
                f"(ranks.timeout_seconds) for the other processes{_where(error)}: one of them "
                f"hangs, or does something else. Continue with ckpt_path=last"
            )
        return self.watch.message(wait=2.0) if self.watch else None

    @property
    def watch(self) -> RankWatch | None:
        """In the first process the watch over the others."""
        return self._launcher.watch if isinstance(self._launcher, WatchedLauncher) else None


_TIMED_OUT = re.compile("Timed out (after|waiting)|[Tt]imeout caused|wait timeout")
"""As gloo and the store say it that processes meet by."""


def _where(error: BaseException) -> str:
    """The collective behind an error, and the code of ours that asked for it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if Path(f.filename).is_relative_to(Path(__file__).parents[1])]
    if not ours:
        return ""
    file = Path(ours[-1].filename).relative_to(Path(__file__).parents[2])
    return f" in {frames[-1].name}, called by {ours[-1].name} ({file}:{ours[-1].lineno})"


def _follow_parent() -> None:
    """End when the first process is gone: nobody else would end us."""
    while os.getppid() == int(os.environ[PARENT]):
        time.sleep(POLL_SECONDS)
    os._exit(1)
