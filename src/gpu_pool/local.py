"""Jobs on this machine: as many at a time as there are slots, the next as soon as one is free."""

import contextlib
import fcntl
import os
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

from omegaconf import DictConfig

from gpu_pool.attempt import start_attempt
from gpu_pool.command import free_port, job_environment
from gpu_pool.errors import SweepError
from gpu_pool.job import Job
from gpu_pool.options import PoolOptions
from gpu_pool.plan import check_fits
from gpu_pool.pool import Event
from gpu_pool.processes import end, living
from gpu_pool.slots import Slot, make_slots

BEAT = 0.1
"""Seconds between two looks at the jobs."""


class LocalExecutor:
    """Gives every job one slot of the machine and a supervisor."""

    node_retries = 0  # this machine is the only one

    def __init__(self, options: PoolOptions, environment: Mapping[str, str], group: str) -> None:
        self.slots = make_slots(options, environment)
        self.free = deque(self.slots)
        self.grace = options.grace_seconds
        self.environment = environment
        self.group = group
        self.running: dict[int, _Running] = {}
        self.begun: list[Event] = []
        self.lock = -1

    def check(self, job: Job, cfg: DictConfig) -> None:
        """Refuse a job that no slot can hold."""
        check_fits(job, cfg, self.slots[0].gpus)

    @contextlib.contextmanager
    def hold(self, folder: Path) -> Iterator[str]:
        """Keep others out of a sweep; yields where its jobs run, for people."""
        with sweep_lock(folder) as self.lock:
            names = "; ".join(slot.name for slot in self.slots)
            yield f"{len(self.slots)} slots ({names})"

    @property
    def has_room(self) -> bool:
        """Whether a slot is free."""
        return bool(self.free)

    def start(self, job: Job) -> None:
        """Start a job on a free slot."""
        slot = self.free.popleft()
        port = free_port({running.port for running in self.running.values()})
        process = start_attempt(
            job,
            slot.name,
            ["gpu_pool.supervise", f"{self.grace:g}"],
            job_environment(self.environment, slot.environment, port=port, group=self.group),
            pass_fds=[self.lock],  # held as long as a job runs, whatever becomes of us
        )
        self.running[job.number] = _Running(job, slot, port, process)
        self.begun.append(Event(job, slot.name))

    def wait(self) -> list[Event]:
        """Which jobs began and ended."""
        if not self.begun:
            time.sleep(BEAT)
        events, self.begun = self.begun, []
        for running in list(self.running.values()):
            if running.process.poll() is not None:
                events.append(Event(running.job, code=running.process.returncode))
                self._clear(running)
        return events

    def stop(self) -> None:
        """Ask the supervisors to end their jobs; the second time means at once."""
        for running in self.running.values():
            running.process.terminate()

    def kill(self) -> None:
        """End supervisors that are late, and what is left of their jobs."""
        for running in list(self.running.values()):
            running.process.kill()
            running.process.wait()
            self._clear(running)

    def _clear(self, running: "_Running") -> None:
        """Free the slot; ends what is left of the job: nothing unless its supervisor was killed."""
        if running.process.stdin:
            running.process.stdin.close()
        end(lambda: living(running.process.pid), patience=1.0)
        del self.running[running.job.number]
        self.free.append(running.slot)


class _Running(NamedTuple):
    """A job under its supervisor."""

    job: Job
    slot: Slot
    port: int
    process: "subprocess.Popen[bytes]"


@contextlib.contextmanager
def sweep_lock(folder: Path) -> Iterator[int]:
    """Hold a sweep's directory; yields the file descriptor.

    Raises:
        SweepError: another launcher, or a job that it left behind, works there.

    """
    folder.mkdir(parents=True, exist_ok=True)
    # Whatever a link of that name leads to is left alone.
    handle = os.open(folder / ".gpu_pool.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    with open(handle, "w") as file:
        _acquire(file, folder)
        yield file.fileno()


def _acquire(file: IO[str], folder: Path) -> None:
    for _ in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(1.0)
        else:
            return
    raise SweepError(
        f"{folder} is in use: a launcher runs this sweep, or jobs of one that was killed are just "
        f"ending; wait, or choose another hydra.sweep.dir"
    )
