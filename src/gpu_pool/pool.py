"""The queue of a sweep: hands jobs to an executor, and asks it what became of them."""

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from omegaconf import DictConfig

from gpu_pool.job import Job, State
from gpu_pool.options import Options

LATE = 15.0
"""Seconds beyond the grace period after which supervisors themselves are killed."""


class Event(NamedTuple):
    """A job began or ended."""

    job: Job
    slot: str = ""
    """Where it began; empty: it ended."""
    code: int | None = None
    """Its exit code; None: its node died."""
    why: str = ""
    """Why it failed, if its folder does not say."""


class Executor(Protocol):
    """Where jobs run."""

    node_retries: int
    """How often a job is tried again whose node died."""

    def check(self, job: Job, cfg: DictConfig) -> None:
        """Raise `SweepError` for a job that cannot run here; before `hold`."""

    def hold(self, folder: Path) -> contextlib.AbstractContextManager[str]:
        """Keep others out of a sweep; yields where its jobs run, for people."""

    @property
    def has_room(self) -> bool:
        """Whether it takes another job."""

    def start(self, job: Job) -> None:
        """Take a job; `wait` tells when it begins and ends."""

    def wait(self) -> list[Event]:
        """What happened, after a moment."""

    def stop(self) -> None:
        """Ask all jobs to end; asked again, they end at once."""

    def kill(self) -> None:
        """Leave nothing of any job."""


class Watcher(Protocol):
    """Who is told about jobs."""

    def started(self, job: Job) -> None: ...
    def ended(self, job: Job, *, again: bool) -> None: ...
    def beat(self) -> None: ...


class Pool:
    """Runs jobs, each in a process of its own."""

    def __init__(self, executor: Executor, *, options: Options, status: Watcher) -> None:
        self.executor = executor
        self.options = options
        self.status = status
        self.taken: dict[int, Job] = {}
        """The jobs that the executor has, by number."""

    def run(self, jobs: Sequence[Job]) -> None:
        """Run every job that waits, to its end.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM, after every process of every job has ended.

        """
        queue = deque(job for job in jobs if job.state == State.WAITING)
        with terminated_like_interrupted():
            try:
                while queue or self.taken:
                    while queue and self.executor.has_room:
                        self._start(queue.popleft())
                    queue += self._look()
            except BaseException:
                self._end_all()
                raise

    def _start(self, job: Job) -> None:
        job.attempts += 1
        self.executor.start(job)
        self.taken[job.number] = job

    def _look(self) -> list[Job]:
        """What happened since; returns the jobs that are to be tried again."""
        again = []
        for job, slot, code, why in self.executor.wait():
            if slot:
                job.begin(slot)
                self.status.started(job)
                continue
            job.finish(code, why)
            del self.taken[job.number]
            if code is None:
                left = job.losses <= self.executor.node_retries
            else:
                left = job.attempts - job.losses <= self.options.retries
            retry = job.state == State.FAILED and left
            self.status.ended(job, again=retry)
            if retry:
                job.state = State.WAITING
                again.append(job)
        self.status.beat()
        return again

    def _end_all(self) -> None:
        """Ask every job to end, wait, kill; a second Ctrl-C shortens the wait."""
        self.executor.stop()
        until = time.monotonic() + self.options.grace_seconds + LATE
        while self.taken and time.monotonic() < until:
            try:
                for event in self.executor.wait():
                    if not event.slot:
                        self._interrupted(self.taken.pop(event.job.number))
                self.status.beat()
            except KeyboardInterrupt:
                self.executor.stop()  # the second time means at once
        self.executor.kill()
        for job in self.taken.values():
            self._interrupted(job)
        self.taken.clear()

    def _interrupted(self, job: Job) -> None:
        if job.state == State.WAITING:  # it never began
            return
        job.finish(128 + signal.SIGTERM)
        job.state, job.message = State.INTERRUPTED, "interrupted"
        self.status.ended(job, again=False)


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


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
