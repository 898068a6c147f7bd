"""A whole sweep: plan, check, run, tell, and return what sweepers want to know."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from gpu_pool.errors import JobFailed, SweepError
from gpu_pool.guard import started_by_others
from gpu_pool.job import Job
from gpu_pool.local import LocalExecutor
from gpu_pool.options import Options, PoolOptions, RayOptions
from gpu_pool.plan import plan
from gpu_pool.pool import Executor, Pool
from gpu_pool.ray_executor import RayExecutor
from gpu_pool.status import SweepStatus


def run_sweep(
    loader: ConfigLoader,
    config: DictConfig,
    all_overrides: Sequence[Sequence[str]],
    first: int,
    options: Options,
) -> list[JobReturn]:
    """Run the jobs and return what came of each, in order.

    Args:
        options: where the jobs run, by their class, and how.

    Raises:
        SweepError: the sweep cannot run as asked; nothing was started.

    """
    environment = dict(os.environ)
    if started_by_others(environment):
        raise SweepError(
            "this process is one rank of a distributed run: start the sweep once, without "
            "torchrun; every job starts its own ranks"
        )
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    group = "/".join(folder.parts[-2:]).lstrip("/")
    executor: Executor
    if isinstance(options, RayOptions):
        executor = RayExecutor(options, environment, group)
    else:
        assert isinstance(options, PoolOptions)
        executor = LocalExecutor(options, environment, group)
    planned = plan(loader, config, all_overrides, first, resume=options.resume)
    for job, cfg in planned:
        executor.check(job, cfg)
    status = SweepStatus([job for job, _ in planned], objective=options.objective)
    _run(executor, options, status, folder)
    return [job_return(job, cfg, options.objective) for job, cfg in planned]


def _run(executor: Executor, options: Options, status: SweepStatus, folder: Path) -> None:
    """Run what earlier runs of the sweep left to do; an interruption ends the process."""
    with executor.hold(folder) as where:
        for job in status.jobs:
            job.recall()
        status.opening(folder, where)
        try:
            with status:
                Pool(executor, options=options, status=status).run(status.jobs)
        except KeyboardInterrupt:
            status.summary()
            print("sweep interrupted: the same command goes on where it stopped", file=sys.stderr)
            sys.exit(130)
    status.summary()


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
