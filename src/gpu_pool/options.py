"""The options of ``hydra/launcher=gpu_pool``; Hydra reads them whenever an application starts."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Options:
    """How a sweep shares a machine, as ``hydra.launcher.<name>=<value>``."""

    gpus: Any = "auto"
    """auto, or a list of positions among the visible GPUs, or of UUIDs."""
    gpus_per_job: int = 1
    cpu_slots: int | None = None
    """Jobs at a time without any GPU; null: one, and only where there is no GPU."""
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
