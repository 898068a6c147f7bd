"""Slots: the share of the machine that one job of a sweep gets, as environment variables.

GPUs are named as jobs will see them: with ``CUDA_VISIBLE_DEVICES=4,5`` outside, GPU 0 is 4. Names
may be numbers, UUIDs (``GPU-…``) and MIG instances; they are passed on and never interpreted.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpu_pool.errors import SweepError
from gpu_pool.options import PoolOptions


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one job at a time."""

    name: str
    environment: Mapping[str, str]
    gpus: int = 0


def make_slots(options: PoolOptions, environment: Mapping[str, str]) -> list[Slot]:
    """Divide the machine.

    Raises:
        SweepError: numbers out of range, GPUs that are not there, or fewer than one job needs.

    """
    options.check()
    if options.cpu_slots is not None:
        slots = _cpu_slots(options.cpu_slots, environment)
    else:
        names = choose_gpus(options.gpus, visible_gpus(environment, count_gpus()))
        slots = _gpu_slots(names, options.gpus_per_job) or _cpu_slots(1, environment)
    return slots[: options.max_parallel]


def count_gpus() -> int:
    """CUDA devices that a process started here would see."""
    import torch  # late: a sweep on CPU slots does without

    return torch.cuda.device_count()


def visible_gpus(environment: Mapping[str, str], count: int) -> list[str]:
    """Names of the GPUs, as ``CUDA_VISIBLE_DEVICES`` takes them.

    Args:
        environment: may hold an outer ``CUDA_VISIBLE_DEVICES``.
        count: devices that CUDA reports under it; CUDA ignores what follows an invalid entry.

    """
    outer = environment.get("CUDA_VISIBLE_DEVICES")
    if outer is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in outer.split(",") if name.strip()][:count]


def choose_gpus(wanted: str | Sequence[int | str], visible: Sequence[str]) -> list[str]:
    """The visible GPUs that were asked for, by position or by name.

    Raises:
        SweepError: one is not there, or was named twice.

    """
    if isinstance(wanted, str):
        if wanted == "auto":
            return list(visible)
        raise SweepError(f"hydra.launcher.gpus must be auto or a list like [0,1], got {wanted!r}")
    chosen = []
    for gpu in wanted:
        if isinstance(gpu, str) and gpu in visible:
            name = gpu
        elif str(gpu).isdecimal() and int(gpu) < len(visible):
            name = visible[int(gpu)]
        else:
            raise SweepError(
                f"hydra.launcher.gpus: there is no GPU {gpu}; visible here are {len(visible)}: "
                f"{', '.join(visible) or 'none'} (positions count from 0)"
            )
        if name in chosen:
            raise SweepError(f"hydra.launcher.gpus names GPU {gpu} twice")
        chosen.append(name)
    if not chosen:
        raise SweepError("hydra.launcher.gpus is empty: give positions, or auto")
    return chosen


def _gpu_slots(names: Sequence[str], each: int) -> list[Slot]:
    """The GPUs in groups; empty where there is none and a job can do without."""
    if each > max(1, len(names)):
        raise SweepError(
            f"hydra.launcher.gpus_per_job={each}, but there are {len(names)} GPUs here"
            f"{' (' + ', '.join(names) + ')' if names else ''}: lower gpus_per_job, or run on the "
            f"CPU by hydra.launcher.cpu_slots=<jobs at a time>"
        )
    groups = [names[start : start + each] for start in range(0, len(names) - each + 1, each)]
    return [
        Slot(f"gpu {','.join(map(_short, g))}", {"CUDA_VISIBLE_DEVICES": ",".join(g)}, len(g))
        for g in groups
    ]


def _cpu_slots(number: int, environment: Mapping[str, str]) -> list[Slot]:
    """Slots that hide all GPUs and share the cores, unless the threads are already set."""
    variables = {"CUDA_VISIBLE_DEVICES": ""}
    if "OMP_NUM_THREADS" not in environment:
        variables["OMP_NUM_THREADS"] = str(max(1, _cores() // number))
    return [Slot(f"cpu {index}", variables) for index in range(number)]


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _short(name: str) -> str:
    """A number whole, a UUID by its beginning."""
    return name if name.isdecimal() else name[:12]
