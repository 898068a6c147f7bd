"""The queue: as many jobs at a time as there are slots, the next one as soon as a slot is free."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from gpu_pool.command import free_port, job_environment
from gpu_pool.errors import SweepError
from gpu_pool.job import ATTEMPT, Job, State, masked
from gpu_pool.options import Options
from gpu_pool.processes import end, living
from gpu_pool.slots import Slot

BEAT = 0.1
"""Seconds between two looks at the jobs."""

LATE = 15.0
"""Seconds beyond the grace period after which a supervisor itself is killed."""


class Watcher(Protocol):
    """Who is told about jobs."""

    def started(self, job: Job) -> None: ...
    def ended(self, job: Job, *, again: bool) -> None: ...
    def beat(self) -> None: ...


class Pool:
    """Runs jobs, each in a process of its own.

    Args:
        slots: room for jobs.
        environment: the variables around the sweep.
        group: name of the sweep.
        options: retries and grace.
        status: is told what happens.

    """

    def __init__(
        self,
        slots: Sequence[Slot],
        *,
        environment: Mapping[str, str],
        group: str,
        options: Options,
        status: Watcher,
    ) -> None:
        self.free = deque(slots)
        self.environment = environment
        self.group = group
        self.retries, self.grace = options.retries, options.grace_seconds
        self.status = status
        self.running: dict[int, _Running] = {}

    def run(self, jobs: Sequence[Job], lock: int) -> None:
        """Run every job that waits, to its end.

        Args:
            jobs: of the sweep, in order.
            lock: file descriptor that outlives this process as long as a job runs.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM, after every process of every job has ended.

        """
        queue = deque(job for job in jobs if job.state == State.WAITING)
        with terminated_like_interrupted():
            try:
                while queue or self.running:
                    while queue and self.free:
                        self._start(queue.popleft(), self.free.popleft(), lock)
                    time.sleep(BEAT)
                    for running in list(self.running.values()):
                        if running.process.poll() is not None:
                            self._finish(running, queue)
                    self.status.beat()
            except BaseException:
                self._end_all()
                raise

    def _start(self, job: Job, slot: Slot, lock: int) -> None:
        port = free_port({running.port for running in self.running.values()})
        command = job.begin(slot.name)
        supervisor = [sys.executable, "-m", "gpu_pool.supervise", f"{self.grace:g}"]
        with open(job.log, "ab") as log:
            head = f"{ATTEMPT} {job.attempts} on {slot.name}: {' '.join(masked(command))}\n"
            log.write(head.encode())
            log.flush()
            process = subprocess.Popen(
                [*supervisor, *command],
                stdin=subprocess.PIPE,  # held open and never written to: see `supervise`
                stdout=log,
                stderr=log,
                env=job_environment(
                    self.environment, slot.environment, port=port, group=self.group
                ),
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
                pass_fds=[lock],
            )
        self.running[job.number] = _Running(job, slot, port, process)
        self.status.started(job)

    def _finish(self, running: "_Running", queue: deque[Job]) -> None:
        running.clear()
        job = running.job
        job.finish(running.process.returncode)
        del self.running[job.number]
        self.free.append(running.slot)
        again = job.state == State.FAILED and job.attempts <= self.retries
        self.status.ended(job, again=again)
        if again:
            job.state = State.WAITING
            queue.append(job)

    def _end_all(self) -> None:
        """Ask every job to end, wait, kill; a second Ctrl-C shortens the wait."""
        patience = self.grace + LATE
        for running in self.running.values():
            running.process.terminate()
        until = time.monotonic() + patience
        while any(r.process.poll() is None for r in self.running.values()):
            try:
                if time.monotonic() > until:
                    break
                self.status.beat()
                time.sleep(BEAT)
            except KeyboardInterrupt:
                for running in self.running.values():
                    running.process.terminate()  # the second time means at once
        for running in self.running.values():
            running.process.kill()
            running.process.wait()
            running.clear()
            running.job.finish(128 + signal.SIGTERM)
            running.job.state, running.job.message = State.INTERRUPTED, "interrupted"
            self.status.ended(running.job, again=False)
        self.running.clear()


class _Running:
    """A job under its supervisor."""

    def __init__(self, job: Job, slot: Slot, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.job = job
        self.slot = slot
        self.port = port
        self.process = process

    def clear(self) -> None:
        """End what is left of the job; nothing, unless its supervisor was killed."""
        if self.process.stdin:
            self.process.stdin.close()
        end(lambda: living(self.process.pid), patience=1.0)


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a sweep the way Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before: dict[int, Any] = {signum: signal.getsignal(signum) for signum in signals}
    for signum in signals:
        if signum != signal.SIGHUP or before[signum] != signal.SIG_IGN:  # nohup stays nohup
            signal.signal(signum, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _acquire(file: IO[str], folder: Path, wait: Callable[[float], None] = time.sleep) -> None:
    for _ in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait(1.0)
        else:
            return
    raise SweepError(
        f"{folder} is in use: a launcher runs this sweep, or jobs of one that was killed are just "
        f"ending; wait, or choose another hydra.sweep.dir"
    )


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def outer_environment() -> dict[str, str]:
    """The variables around the sweep."""
    return dict(os.environ)
