"""The command line and the environment of one job: this very program again, in RUN mode."""

import random
import socket
import sys
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig

DISTRIBUTED = {
    "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE",
    "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "PL_GLOBAL_SEED", "PL_SEED_WORKERS",
}  # fmt: skip
"""Variables by which a process takes itself for a rank of somebody else's training."""

OURS = ("hydra/launcher", "hydra/sweeper", "hydra.launcher", "hydra.sweeper", "hydra.sweep",
        "hydra.mode", "hydra.run.dir")  # fmt: skip
"""Hydra's own overrides that steer the sweep; a job does not repeat them."""

PORTS = range(20000, 30000)
"""Where jobs meet their ranks: below the ports that systems hand out for outgoing connections."""


def job_command(
    config: DictConfig, overrides: Iterable[str], *, number: int, folder: Path
) -> list[str]:
    """The command of a job."""
    hydra = config.hydra
    options = ["--config-name", str(hydra.job.config_name)]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            options += ["--config-dir", str(source.path)]
        elif source.provider == "main" and source.schema == "file":
            options += ["--config-path", str(source.path)]
    kept = [o for o in hydra.overrides.hydra if not o.lstrip("+~").startswith(OURS)]
    place = [
        "hydra.mode=RUN",
        f"hydra.run.dir={quoted(str(folder))}",
        f"hydra.sweep.dir={quoted(str(Path(str(hydra.sweep.dir)).absolute()))}",
        f"hydra.job.num={number}",
    ]
    return [*program(), *options, *kept, *overrides, *place]


def program() -> list[str]:
    """How this process was started: a script, or ``python -m`` a module."""
    import __main__

    spec = getattr(__main__, "__spec__", None)
    if spec is None:
        return [sys.executable, str(Path(sys.argv[0]).absolute())]
    return [sys.executable, "-m", spec.name.removesuffix(".__main__")]


def quoted(text: str) -> str:
    """A value of an override, whatever characters it holds.

    Double quotes: Lightning puts them around the output directory when it starts its ranks.
    """
    return QuotedString(text, Quote.double).with_quotes()


def job_environment(
    outer: Mapping[str, str], slot: Mapping[str, str], *, port: int, group: str
) -> dict[str, str]:
    """Variables of a job: those around the sweep, without a trace of another training.

    Args:
        slot: of the slot; they win.
        port: where the ranks of the job meet.
        group: name of the sweep, by which W&B groups the runs unless told otherwise.

    """
    kept = {
        name: value
        for name, value in outer.items()
        if name not in DISTRIBUTED and not name.startswith("TORCHELASTIC_")
    }
    if "SLURM_NTASKS" in kept:
        # within an allocation the jobs are ours, not srun's: Lightning then starts its own ranks
        kept["SLURM_JOB_NAME"] = "interactive"
    return {
        "WANDB_RUN_GROUP": group,
        **kept,
        "MASTER_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
        **slot,
    }


def free_port(taken: Container[int]) -> int:
    """A port that nobody listens on and no other job of this sweep was given."""
    for port in random.SystemRandom().sample(PORTS, 200):
        if port in taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
    raise OSError(f"no free port among {PORTS.start}..{PORTS.stop - 1}")
