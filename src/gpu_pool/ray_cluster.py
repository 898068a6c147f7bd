"""The Ray that jobs run on: joined, or started for the sweep."""

import logging
import os
from functools import cache
from types import ModuleType
from typing import Any

from gpu_pool.errors import SweepError

OBJECTS = 100 << 20
"""Bytes of shared memory that a Ray of our own reserves: nothing but exit codes passes through."""


@cache  # a sweeper has several batches
def connect(address: str | None) -> tuple[ModuleType, bool]:
    """Join a cluster, or start a Ray on this machine that ends with this process.

    Args:
        address: see `gpu_pool.options.RayOptions`.

    Returns:
        The module `ray`, connected; and whether this Ray is our own, and will not grow.

    Raises:
        SweepError: Ray is not installed, or does not answer there.

    """
    # Read when a Ray starts, hence of our own: for a cluster this was decided elsewhere.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as gpu_pool: the training is what it is for
    try:
        import ray
    except ImportError as error:
        raise SweepError("hydra/launcher=ray needs Ray: pip install 'stepseg[ray]'") from error
    if address and address.startswith("ray://"):
        raise SweepError(
            f"hydra.launcher.address={address}: a sweep runs on a machine of the cluster, which "
            f"sees the folder that all share; start it there, or by ray job submit"
        )
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address != "local":
            ray.init(address=address or "auto", **quiet)
            return ray, False
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is not None or "RAY_ADDRESS" in os.environ:
            where = address or os.environ["RAY_ADDRESS"]
            raise SweepError(f"hydra.launcher.address={where}: {error}") from error
    ray.init(address="local", include_dashboard=False, object_store_memory=OBJECTS, **quiet)
    return ray, True


def room(ray: ModuleType) -> tuple[str, float, float]:
    """What the cluster has, for people; and the most cores and GPUs of one node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores, gpus = ([node.get(kind, 0) for node in nodes] for kind in ("CPU", "GPU"))
    where = f"Ray with {len(nodes)} node{'s' * (len(nodes) != 1)}"
    return f"{where}, {sum(cores):g} cores, {sum(gpus):g} GPUs", max(cores), max(gpus)
