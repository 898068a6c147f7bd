"""Which sweeps would hang or lie, told before any data are touched.

Lightning starts the ranks of a DDP training by running the same command line again. In a sweep
whose jobs share one process that command line is the whole sweep: every rank sweeps by itself, a
job that fails on one rank only leaves the others waiting for ever, and a sweeper that draws random
values draws others on every rank. Jobs therefore need processes of their own.
"""

import os
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from gpu_pool.errors import SweepError

SAFE = ("GpuPoolLauncher", "RayLauncher", "SlurmLauncher")
"""Launchers that give every job processes of its own and check the number of its ranks."""

DISTRIBUTED = ("ddp", "fsdp", "deepspeed", "xla", "modelparallel")
"""What names of distributed strategies begin with or contain."""


def check_sweep(config: Mapping[str, Any]) -> None:
    """Refuse a job of several processes within a sweep that cannot run it.

    Args:
        config: of the job, plain; without a `trainer` there is nothing to check.

    Raises:
        SweepError: names the launcher that can.

    """
    trainer = config.get("trainer")
    if not trainer or not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return
    launcher = str(hydra.launcher.get("_target_")).rpartition(".")[2]
    if launcher == "SlurmLauncher":
        _check_tasks(hydra.launcher, trainer)
    if launcher in SAFE:
        return
    if started_by_others(os.environ):
        raise SweepError(
            "this process is one rank of a distributed run, but was told to run a whole sweep "
            "(--multirun): start the sweep once, without torchrun, with hydra/launcher=gpu_pool"
        )
    if is_distributed(trainer):
        raise SweepError(
            f"a sweep under {launcher} runs its jobs in one process, and trainer.devices="
            f"{trainer.get('devices')} with strategy={trainer.get('strategy', 'auto')} would start "
            f"the whole sweep again on every rank: add hydra/launcher=gpu_pool (one machine), or "
            f"ray or slurm (clusters), or train on one device"
        )


def _check_tasks(launcher: Mapping[str, Any], trainer: Mapping[str, Any]) -> None:
    """Refuse numbers of tasks that are not those of the devices; null follows the devices."""
    for name, needed in (("nodes", num_nodes(trainer)), ("tasks_per_node", num_devices(trainer))):
        given = launcher.get(name)
        if given is not None and int(given) != needed:
            raise SweepError(
                f"SLURM started hydra.launcher.{name}={given}, but the training expects {needed}: "
                f"take hydra/launcher=slurm, which sets it by trainer.devices and trainer.num_nodes"
            )


def started_by_others(environment: Mapping[str, str]) -> bool:
    """Whether torchrun, or Lightning for its ranks, started this process."""
    return "TORCHELASTIC_RUN_ID" in environment or "LOCAL_RANK" in environment


def is_distributed(trainer: Mapping[str, Any]) -> bool:
    """Whether a trainer would run in several processes, or as a process group."""
    strategy = trainer.get("strategy", "auto")
    if isinstance(strategy, Mapping):
        strategy = str(strategy.get("_target_", "")).rpartition(".")[2]
    strategy = str(strategy).lower().replace("_", "")
    if any(name in strategy for name in DISTRIBUTED):
        return True
    return num_nodes(trainer) > 1 or num_devices(trainer) > 1


def num_nodes(trainer: Mapping[str, Any]) -> int:
    """Machines that a trainer asks for."""
    return int(trainer.get("num_nodes") or 1)


def num_devices(trainer: Mapping[str, Any]) -> int:
    """Devices per machine that a trainer asks for; ``auto`` is looked up here and now."""
    asked = asked_devices(trainer)
    if asked is not None:
        return asked
    if str(trainer.get("accelerator")) in ("cpu", "mps", "tpu"):
        return 1
    import torch  # late: only trainers that leave the number open need to know

    return max(1, torch.cuda.device_count())


def asked_devices(trainer: Mapping[str, Any]) -> int | None:
    """Devices per machine as written; None for ``auto`` and -1."""
    devices = trainer.get("devices", "auto")
    if isinstance(devices, int):
        return None if devices < 0 else devices
    if isinstance(devices, str):
        if "," in devices:
            return len([part for part in devices.split(",") if part.strip()])
        return int(devices) if devices.strip().isdecimal() else None
    return len(devices) if devices is not None else None


def wants_gpu(trainer: Mapping[str, Any]) -> bool:
    """Whether a trainer insists on a GPU."""
    return str(trainer.get("accelerator")) in ("gpu", "cuda")
