"""A job on the node that Ray has chosen: takes the job's folder, starts it, and waits for its end.

Not here: who decides what runs (`gpu_pool.ray_executor`).
"""

import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpu_pool.attempt import start_attempt
from gpu_pool.command import free_port, job_environment
from gpu_pool.job import Job
from gpu_pool.lease import SILENCE, Lease, take
from gpu_pool.processes import end, living

LEASE = ".gpu_pool.lease"
"""In the folder of a job, and of a sweep."""

FORWARDED = ("STEPSEG_", "WANDB_", "HF_", "OMP_NUM_THREADS", "PYTHONPATH")
"""Beginnings of variables that jobs get from around the sweep; all others are the node's."""

HOLDS = "GPU_POOL_HOLDS"
"""Variable that tells a job which folder is held for it, where locks of files are unknown."""

PARTING = 60.0
"""Seconds after which a node that is cut off from Ray ends its workers."""

BEAT = 0.2


@dataclass(frozen=True)
class Around:
    """What a job gets from around its sweep."""

    sweep: Path
    group: str
    environment: Mapping[str, str]
    cwd: str
    grace: float


def run_job(job: Job, around: Around, gpus: int) -> Iterator[str | int]:
    """Run a job to its end; yields where it runs, then its exit code.

    Raises:
        FileNotFoundError: this node does not see the folder of the sweep.
        FolderTakenError: another attempt does not end.

    """
    if not (around.sweep / LEASE).is_file():
        raise FileNotFoundError(
            f"{platform.node()} does not see {around.sweep}: hydra.sweep.dir must lie in a folder "
            f"that all nodes share, at the same path"
        )
    job.folder.mkdir(parents=True, exist_ok=True)
    lease = take(job.folder / LEASE, patience=PARTING + around.grace + SILENCE)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpus else ""
    slot = platform.node() + (f" gpu {visible}" if gpus else "")
    try:
        job.recall()
        process = None if job.done else _start(job, around, lease, slot, visible)
    except BaseException:
        lease.release()
        raise
    if process is None:  # completed by an attempt that was taken for lost
        lease.release()
        yield slot
        yield 0
        return
    os.close(lease.handle)  # the supervisor has it now
    try:
        yield slot
        while process.poll() is None:
            time.sleep(BEAT)
    except BaseException:
        _ask_to_end(process)
        raise
    finally:
        end(lambda: living(process.pid), patience=1.0)  # nothing, unless the supervisor was killed
    yield process.returncode


def _start(
    job: Job, around: Around, lease: Lease, slot: str, visible: str
) -> "subprocess.Popen[bytes]":
    node = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {"CUDA_VISIBLE_DEVICES": visible, HOLDS: str(job.folder)}
    return start_attempt(
        job,
        slot,
        ["gpu_pool.held", str(lease.handle), str(lease.path), f"{around.grace:g}"],
        job_environment(
            {**node, **around.environment}, own, port=free_port(()), group=around.group
        ),
        pass_fds=[lease.handle],
        cwd=around.cwd if Path(around.cwd).is_dir() else None,
    )


def _ask_to_end(process: "subprocess.Popen[bytes]") -> None:
    """Ask, wait; asked ourselves once more, ask again, which means at once."""
    assert process.stdin is not None
    while process.poll() is None:
        try:
            process.stdin.write(b".")
            process.stdin.flush()
            while process.poll() is None:
                time.sleep(BEAT)
        except KeyboardInterrupt:
            continue
        except BrokenPipeError:
            process.wait()
