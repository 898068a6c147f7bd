"""A whole sweep on one machine: plan, check, run, tell, and return what sweepers want to know."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from gpu_pool.errors import JobFailed, SweepError
from gpu_pool.guard import started_by_others
from gpu_pool.job import Job
from gpu_pool.plan import check_fits, plan
from gpu_pool.pool import Pool, outer_environment, sweep_lock
from gpu_pool.slots import make_slots
from gpu_pool.status import SweepStatus


def run_sweep(
    loader: ConfigLoader,
    config: DictConfig,
    all_overrides: Sequence[Sequence[str]],
    first: int,
    *,
    gpus: str | Sequence[int | str],
    gpus_per_job: int,
    cpu_slots: int | None,
    max_parallel: int | None,
    retries: int,
    resume: bool,
    grace_seconds: float,
    objective: str | Sequence[str] | None,
) -> list[JobReturn]:
    """Run the jobs and return what came of each, in order.

    Args:
        loader: Hydra's, composes the jobs.
        config: of the sweep.
        all_overrides: of each job.
        first: number of the first.
        gpus: see `make_slots`, also for the next three.
        gpus_per_job: GPUs of every job.
        cpu_slots: jobs at a time on the CPU.
        max_parallel: jobs at a time.
        retries: how often a failed job is tried again.
        resume: whether a training goes on from its last checkpoint.
        grace_seconds: between asking a job to end and killing it.
        objective: figure of `result.json` to return; None: mIoU or mAP.

    Raises:
        SweepError: the sweep cannot run as asked; nothing was started.

    """
    environment = outer_environment()
    if started_by_others(environment):
        raise SweepError(
            "this process is one rank of a distributed run: start the sweep once, without "
            "torchrun; every job starts its own ranks"
        )
    if retries < 0:
        raise SweepError(f"hydra.launcher.retries must not be negative, got {retries}")
    slots = make_slots(
        gpus=gpus,
        gpus_per_job=gpus_per_job,
        cpu_slots=cpu_slots,
        max_parallel=max_parallel,
        environment=environment,
    )
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    planned = plan(loader, config, all_overrides, first, resume=resume)
    for job, cfg in planned:
        check_fits(job, cfg, slots)
    jobs = [job for job, _ in planned]
    with sweep_lock(folder) as lock:
        for job in jobs:
            job.recall()
        status = SweepStatus(jobs, objective=objective)
        status.console.print(
            f"{len(jobs)} jobs, {sum(job.done for job in jobs)} of them completed before, on "
            f"{len(slots)} slots ({'; '.join(slot.name for slot in slots)}), in {folder}",
            highlight=False,
        )
        pool = Pool(
            slots,
            environment=environment,
            group=sweep_name(folder),
            retries=retries,
            grace=grace_seconds,
            status=status,
        )
        try:
            with status:
                pool.run(jobs, lock)
        except KeyboardInterrupt:
            status.summary()
            print("sweep interrupted: the same command goes on where it stopped", file=sys.stderr)
            sys.exit(130)
    status.summary()
    return [job_return(job, cfg, objective) for job, cfg in planned]


def sweep_name(folder: Path) -> str:
    """Short name of a sweep: the last two folders of its directory."""
    return "/".join(folder.parts[-2:]).lstrip("/")


def job_return(job: Job, cfg: DictConfig, objective: str | Sequence[str] | None) -> JobReturn:
    """A job as Hydra's sweepers know it."""
    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    hydra = OmegaConf.masked_copy(cfg, "hydra")
    runtime = hydra.hydra.runtime
    with read_write(runtime), open_dict(runtime):
        runtime.output_dir = str(job.folder)
    done = JobReturn(
        overrides=job.overrides,
        cfg=task,
        hydra_cfg=hydra,
        working_dir=str(job.folder),
        task_name=str(cfg.hydra.job.name),
        status=JobStatus.COMPLETED if job.done else JobStatus.FAILED,
    )
    if job.done:
        done.return_value = job.objective(objective)
    else:
        done.return_value = JobFailed(
            f"job {job.number} ({job.label}) {job.state.value}: {job.message}; see {job.log}"
        )
    return done
