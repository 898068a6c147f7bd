"""The options of the launchers; Hydra reads them whenever an application starts."""

from dataclasses import dataclass
from typing import Any

from gpu_pool.errors import SweepError

LEAST = {
    "gpus_per_job": 1, "cpus_per_job": 1, "cpu_slots": 1, "max_parallel": 1, "retries": 0,
    "node_retries": 0,
}  # fmt: skip


@dataclass
class Options:
    """How a sweep runs, as ``hydra.launcher.<name>=<value>``."""

    max_parallel: int | None = None
    """At most so many jobs at a time."""
    retries: int = 0
    """How often a failed job is tried again."""
    resume: bool = True
    """Trainings that failed or were interrupted go on from their last checkpoint."""
    grace_seconds: float = 30.0
    """Between asking a job to end and killing it."""
    objective: Any = None
    """Figure of result.json handed to the sweeper, or a list; null: mIoU, or mAP of a policy."""

    def check(self) -> None:
        """Raise `SweepError` for numbers that are out of range."""
        for name, least in LEAST.items():
            number = getattr(self, name, None)
            if number is not None and number < least:
                raise SweepError(f"hydra.launcher.{name} must be at least {least}, got {number}")


@dataclass
class PoolOptions(Options):
    """How a sweep shares this machine."""

    gpus: Any = "auto"
    """auto, or a list of positions among the visible GPUs, or of UUIDs."""
    gpus_per_job: int = 1
    cpu_slots: int | None = None
    """Jobs at a time without any GPU; null: one, and only where there is no GPU."""


@dataclass
class RayOptions(Options):
    """How a sweep shares a Ray cluster."""

    address: str | None = None
    """host:port of a cluster; local: a Ray of this sweep's own; null: the cluster that
    ``RAY_ADDRESS`` or this machine knows, else local."""
    gpus_per_job: int | None = None
    """On one node; null: as many as ``trainer.devices``."""
    cpus_per_job: int = 1
    """Cores that a job gets, and threads of PyTorch."""
    node_retries: int = 10
    """How often a job is tried again whose node died."""
