"""From the overrides that a sweeper chose to jobs with folders, checked before anything starts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from gpu_pool.command import job_command
from gpu_pool.errors import SweepError
from gpu_pool.guard import asked_devices, num_nodes, wants_gpu
from gpu_pool.job import Job


def job_config(
    loader: ConfigLoader, config: DictConfig, overrides: Sequence[str], number: int
) -> DictConfig:
    """The whole configuration of a job, with Hydra's part."""
    job = loader.load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.id = str(number)
        job.hydra.job.num = number
    return job


def plan(
    loader: ConfigLoader,
    config: DictConfig,
    all_overrides: Sequence[Sequence[str]],
    first: int,
    *,
    resume: bool,
) -> list[tuple[Job, DictConfig]]:
    """The jobs of a sweep with their configurations.

    Raises:
        SweepError: two jobs would write into one folder.

    """
    common = [o for o, n in Counter(o for os in all_overrides for o in set(os)).items()
              if n == len(all_overrides) > 1]  # fmt: skip
    planned: list[tuple[Job, DictConfig]] = []
    for number, overrides in enumerate(map(list, all_overrides), first):
        cfg = job_config(loader, config, overrides, number)
        folder = output_folder(cfg)
        for other, _ in planned:
            if other.folder == folder:
                raise SweepError(
                    f"jobs {other.number} and {number} would both write to {folder}: let "
                    f"hydra.sweep.subdir tell them apart, as by ${{hydra.job.num}}"
                )
        job = Job(
            number=number,
            overrides=overrides,
            config_name=str(config.hydra.job.config_name),
            folder=folder,
            command=job_command(config, overrides, number=number, folder=folder),
            label=" ".join(o for o in overrides if o not in common) or "the configuration",
            can_resume=resume and "callbacks" in cfg and "ckpt_path" in cfg,
        )
        planned.append((job, cfg))
    return planned


def output_folder(cfg: DictConfig) -> Path:
    """Where a job of a sweep writes."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)  # folder names may ask for hydra: values
    try:
        return (Path(str(cfg.hydra.sweep.dir)) / str(cfg.hydra.sweep.subdir)).absolute()
    finally:
        HydraConfig.instance().cfg = before


def needed_gpus(job: Job, cfg: DictConfig) -> int:
    """How many GPUs a job trains on, which its configuration must say.

    Raises:
        SweepError: it leaves that open.

    """
    trainer = trainer_values(cfg)
    if trainer is None:  # a benchmark
        return int(str(cfg.get("device", "cpu")).startswith("cuda"))
    asked = asked_devices(trainer)
    if str(trainer.get("accelerator")) == "auto" or (wants_gpu(trainer) and asked is None):
        raise SweepError(
            f"job {job.number} ({job.label}) leaves open how many GPUs it needs "
            f"(trainer.accelerator={trainer['accelerator']}, trainer.devices="
            f"{trainer.get('devices')}): set trainer.devices or hydra.launcher.gpus_per_job"
        )
    return (asked or 0) if wants_gpu(trainer) else 0


def check_fits(job: Job, cfg: DictConfig, gpus: int) -> None:
    """Refuse a job that its share of the machine cannot hold.

    Raises:
        SweepError: names the option to change.

    """
    trainer = trainer_values(cfg)
    if trainer is None:
        return
    which = f"job {job.number} ({job.label})"
    if num_nodes(trainer) > 1:
        raise SweepError(
            f"{which} wants trainer.num_nodes={num_nodes(trainer)}: this launcher runs a job on "
            f"one machine; take hydra/launcher=slurm, or torchrun without a sweep"
        )
    if not wants_gpu(trainer):
        return
    if gpus == 0:
        raise SweepError(
            f"{which} wants a GPU (trainer.accelerator={trainer['accelerator']}), but the slots of "
            f"this sweep have none: take trainer=cpu, or a machine with GPUs"
        )
    asked = asked_devices(trainer)
    if asked is not None and asked != gpus:
        raise SweepError(
            f"{which} trains on trainer.devices={asked} GPUs, but every slot has "
            f"{gpus}: set hydra.launcher.gpus_per_job={asked}"
        )


def trainer_values(cfg: DictConfig) -> Mapping[str, Any] | None:
    """The trainer's part, plain; what cannot be resolved outside a job stays as written."""
    if cfg.get("trainer") is None:
        return None
    keys = ("accelerator", "devices", "strategy", "num_nodes")
    present = {key: cfg.trainer[key] for key in keys if key in cfg.trainer}
    return {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in present.items()
    }
