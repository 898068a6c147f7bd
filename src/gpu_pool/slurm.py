"""Jobs of a sweep on a SLURM cluster, by the plugin hydra-submitit-launcher.

SLURM starts the ranks, so the tasks that it is asked for and the devices that the training expects
must be the same numbers. Here the first follow from the second, and a mismatch is refused before
anything is submitted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from gpu_pool.errors import SweepError
from gpu_pool.guard import asked_devices, num_nodes, wants_gpu
from gpu_pool.plan import trainer_values


def submitit_launcher(params: Mapping[str, Any]) -> Launcher:
    """The plugin's launcher.

    Raises:
        SweepError: it is not installed.

    """
    try:
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
    except ImportError as error:
        raise SweepError(
            "hydra/launcher=slurm needs a plugin: pip install hydra-submitit-launcher"
        ) from error
    return SlurmLauncher(**params)


def with_counts(params: Mapping[str, Any], cfgs: Sequence[DictConfig]) -> dict[str, Any]:
    """The plugin's parameters with tasks, nodes and GPUs as the jobs need them.

    Args:
        params: of `hydra.launcher`; null where a number is to follow from the trainer.
        cfgs: configurations of all jobs; SLURM gets them as one array, hence one shape.

    Raises:
        SweepError: the jobs differ among each other, or from a number that was given.

    """
    shapes = {tuple(sorted(_counts(cfg).items())) for cfg in cfgs}
    if len(shapes) > 1:
        shown = " and ".join(str(dict(shape)) for shape in sorted(shapes))
        raise SweepError(
            f"the jobs of this sweep ask for different machines ({shown}): submit them as sweeps "
            f"of their own"
        )
    needed = dict(shapes.pop())
    filled = dict(params)
    for name, number in needed.items():
        given = params.get(name)
        if given is not None and int(given) != number:
            option = "num_nodes" if name == "nodes" else "devices"
            raise SweepError(
                f"hydra.launcher.{name}={given}, but trainer.{option} needs {number}: SLURM starts "
                f"one task per device; leave hydra.launcher.{name} out, or change "
                f"trainer.{option}"
            )
        filled[name] = number
    return {key: value for key, value in filled.items() if value is not None}


def _counts(cfg: DictConfig) -> dict[str, int]:
    """What one job asks of SLURM."""
    trainer = trainer_values(cfg)
    if trainer is None:  # a benchmark: one process
        on_gpu = str(cfg.get("device", "cpu")).startswith("cuda")
        return {"nodes": 1, "tasks_per_node": 1} | ({"gpus_per_node": 1} if on_gpu else {})
    devices = asked_devices(trainer)
    if devices is None:
        raise SweepError(
            f"trainer.devices={trainer.get('devices')} leaves open how many tasks SLURM has to "
            f"start: give the number per node, as trainer.devices=4"
        )
    counts = {"nodes": num_nodes(trainer), "tasks_per_node": devices}
    return counts | ({"gpus_per_node": devices} if wants_gpu(trainer) else {})
