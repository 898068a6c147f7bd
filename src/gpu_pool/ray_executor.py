"""Jobs on a Ray cluster: one remote function each, which reserves cores and GPUs of one node.

Ray chooses the node and waits for room; what a job is and how it ended stays in its folder, which
all nodes share. A cluster that grows on demand sees all waiting jobs.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from gpu_pool.errors import SweepError
from gpu_pool.job import Job
from gpu_pool.lease import Lease, await_all, take
from gpu_pool.on_node import FORWARDED, LEASE, Around, run_job
from gpu_pool.options import RayOptions
from gpu_pool.plan import check_fits, needed_gpus
from gpu_pool.pool import LATE, Event
from gpu_pool.ray_cluster import connect, room

BEAT = 1.0
"""Seconds between two signs of life of the launcher."""

FAREWELL = 5.0
"""Seconds that another launcher of the sweep gets to end."""


class RayExecutor:
    """Gives every job a remote function."""

    ray: ModuleType
    lease: Lease
    around: Around

    def __init__(self, options: RayOptions, environment: Mapping[str, str], group: str) -> None:
        options.check()
        self.options = options
        self.node_retries = options.node_retries
        self.environment = {k: v for k, v in environment.items() if k.startswith(FORWARDED)}
        self.group = group
        self.jobs: dict[int, tuple[Job, int]] = {}
        """With their GPUs, by number."""
        self.tasks: dict[Any, Job] = {}
        """By what Ray knows them by."""

    def check(self, job: Job, cfg: DictConfig) -> None:
        """Refuse a job that does not say how many GPUs it needs, or needs several nodes."""
        gpus = self.options.gpus_per_job
        gpus = needed_gpus(job, cfg) if gpus is None else gpus
        check_fits(job, cfg, gpus)
        self.jobs[job.number] = job, gpus

    @contextlib.contextmanager
    def hold(self, folder: Path) -> Iterator[str]:
        """Keep others out of a sweep; yields where its jobs run, for people."""
        self.ray, own = connect(self.options.address)
        where, cores, gpus = room(self.ray)
        wanted = max((n for _, n in self.jobs.values()), default=0)
        if self.options.cpus_per_job > cores or wanted > gpus:
            lack = (
                f"a job needs {self.options.cpus_per_job} cores and up to {wanted} GPUs of one "
                f"node, which have at most {cores:g} and {gpus:g}"
            )
            if own:
                raise SweepError(f"{lack}: lower trainer.devices or hydra.launcher.cpus_per_job")
            _tell(f"{lack}: waiting for a node that has more")
        folder.mkdir(parents=True, exist_ok=True)
        self.around = Around(
            folder, self.group, self.environment, os.getcwd(), self.options.grace_seconds
        )
        self.lease = take(folder / LEASE, patience=FAREWELL)
        try:
            left = [job.folder / LEASE for job, _ in self.jobs.values()]
            if any(path.exists() for path in left):
                _tell("waiting for jobs that another launcher has left to end")
                await_all(left, patience=self.options.grace_seconds + LATE)
            yield where
        finally:
            self.lease.release()

    @property
    def has_room(self) -> bool:
        """Whether Ray may get another job; it keeps those that find no room yet."""
        return len(self.tasks) < (self.options.max_parallel or sys.maxsize)

    def start(self, job: Job) -> None:
        """Hand a job to Ray."""
        _, gpus = self.jobs[job.number]
        task = self.ray.remote(run_job).options(
            num_cpus=self.options.cpus_per_job,
            num_gpus=gpus,
            max_retries=0,
            name=f"{self.group} #{job.number}",
        )
        self.tasks[task.remote(job, self.around, gpus)] = job

    def wait(self) -> list[Event]:
        """What Ray says of the jobs."""
        if not self.lease.beat():
            raise SweepError(f"another launcher has taken over {self.around.sweep}")
        if not self.tasks:
            time.sleep(BEAT)
            return []
        ready, _ = self.ray.wait(list(self.tasks), timeout=BEAT)
        return [self._next(task) for task in ready]

    def stop(self) -> None:
        """Have the nodes ask their jobs to end; the second time means at once."""
        for task in self.tasks:
            self.ray.cancel(task)

    def kill(self) -> None:
        """End the workers; supervisors see that, and end what is left of the jobs."""
        for task in self.tasks:
            self.ray.cancel(task, force=True)
        self.tasks.clear()

    def _next(self, task: Any) -> Event:
        """The next that a remote function tells, or how it came to its end."""
        job, errors = self.tasks[task], self.ray.exceptions
        try:
            told = self.ray.get(next(task))
            if isinstance(told, str):
                return Event(job, slot=told)
            event = Event(job, code=told)
        except errors.RayTaskError as error:  # the node is there, and says why
            event = Event(job, code=1, why=f"{type(error.cause).__name__}: {error.cause}")
        except (errors.TaskCancelledError, errors.OutOfMemoryError) as error:
            event = Event(job, code=1, why=_briefly(error))
        except (errors.RayError, StopIteration) as error:
            event = Event(job, why=f"lost with its node: {_briefly(error)}")
        del self.tasks[task]
        return event


def _briefly(error: Exception) -> str:
    """Its first sentence."""
    return str(error).partition("\n")[0].partition(". ")[0]


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
