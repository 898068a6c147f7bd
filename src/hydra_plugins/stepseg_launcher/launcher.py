"""``hydra/launcher=gpu_pool``, ``ray`` and the launcher behind ``hydra/launcher=slurm``.

Hydra imports this file whenever any Hydra application starts, so it imports nothing of weight.
`hydra_plugins` is a namespace package shared with other plugins: it has no `__init__.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from gpu_pool.options import Options, PoolOptions, RayOptions


@dataclass
class GpuPoolConf(PoolOptions):
    """The options, and who takes them."""

    _target_: str = "hydra_plugins.stepseg_launcher.launcher.GpuPoolLauncher"


@dataclass
class RayConf(RayOptions):
    """The options, and who takes them."""

    _target_: str = "hydra_plugins.stepseg_launcher.launcher.RayLauncher"


for name, conf in {"gpu_pool": GpuPoolConf, "ray": RayConf}.items():
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=conf, provider="stepseg")


class _StepsegLauncher(Launcher):
    """Keeps what Hydra hands over."""

    def __init__(self, **options: Any) -> None:
        self.options: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True)
            if OmegaConf.is_config(value)
            else value
            for key, value in options.items()
        }

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before `launch`."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        setup_globals()
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)


class GpuPoolLauncher(_StepsegLauncher):
    """One process per job, as many jobs at a time as GPUs allow."""

    kind: type[Options] = PoolOptions

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs of one batch of the sweeper."""
        from gpu_pool.sweep import run_sweep

        return run_sweep(
            self.hydra_context.config_loader,
            self.config,
            job_overrides,
            initial_job_idx,
            self.kind(**self.options),
        )


class RayLauncher(GpuPoolLauncher):
    """The same, on the nodes of a Ray cluster."""

    kind = RayOptions


class SlurmLauncher(_StepsegLauncher):
    """hydra-submitit-launcher, with as many tasks as the jobs have devices."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit the jobs of one batch of the sweeper and wait for them."""
        from gpu_pool.plan import job_config
        from gpu_pool.slurm import submitit_launcher, with_counts

        cfgs = [
            job_config(self.hydra_context.config_loader, self.config, overrides, number)
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        launcher = submitit_launcher(with_counts(self.options, cfgs))
        launcher.setup(
            hydra_context=self.hydra_context, task_function=self.task_function, config=self.config
        )
        return launcher.launch(job_overrides, initial_job_idx)


def register_launchers() -> None:
    """Make the launchers known to Hydra; call it before `hydra.main` runs. Repeatable.

    Hydra finds plugins by walking the folders of `hydra_plugins`, which misses some editable
    installs; registering does not depend on how stepseg was installed.
    """
    from hydra.core.plugins import Plugins  # which imports this file

    for launcher in (GpuPoolLauncher, RayLauncher, SlurmLauncher):
        Plugins.instance().register(launcher)
