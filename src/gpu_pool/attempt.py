"""One attempt of a job: what is noted in its folder, and the process that runs it."""

import subprocess
import sys
from collections.abc import Mapping, Sequence

from gpu_pool.command import quoted
from gpu_pool.job import ATTEMPT, Job, masked
from gpu_pool.json_file import write_json

CHECKPOINTS = ("last.ckpt", "next.ckpt", "previous.ckpt")
"""Any of them is work to go on with: a kill may come between the writing and the renaming."""


def start_attempt(
    job: Job,
    slot: str,
    supervisor: Sequence[str],
    environment: Mapping[str, str],
    *,
    pass_fds: Sequence[int] = (),
    cwd: str | None = None,
) -> "subprocess.Popen[bytes]":
    """Start the command of a job under a supervisor, which ends it when its stdin is closed.

    Args:
        job: whose folder nobody else works in.
        slot: where it runs, for people.
        supervisor: module and arguments, to which the command is added.
        pass_fds: file descriptors that the supervisor keeps.
        cwd: None: that of this process.

    """
    command = _note(job, slot)
    with open(job.log, "ab") as log:
        log.write(f"{ATTEMPT} {job.attempts} on {slot}: {' '.join(masked(command))}\n".encode())
        log.flush()
        return subprocess.Popen(
            [sys.executable, "-m", *supervisor, *command],
            stdin=subprocess.PIPE,  # held open: see `supervise`
            stdout=log,
            stderr=log,
            env=dict(environment),
            start_new_session=True,  # out of reach of the terminal's Ctrl-C
            pass_fds=list(pass_fds),
            cwd=cwd,
        )


def _note(job: Job, slot: str) -> list[str]:
    """Prepare the folder; returns the command, which goes on from the last checkpoint."""
    job.folder.mkdir(parents=True, exist_ok=True)
    command = list(job.command)
    folder = job.folder / "checkpoints"
    if job.can_resume and any((folder / name).is_file() for name in CHECKPOINTS):
        command.append(f"ckpt_path={quoted(str(folder / CHECKPOINTS[0]))}")
    write_json(
        job.folder / "job.json",
        {
            "config_name": job.config_name,
            "overrides": masked(job.overrides),
            "command": masked(command),
            "slot": slot,
        },
    )
    # what lies there is of a failed attempt, and the next may be killed before it writes
    (job.folder / "result.json").unlink(missing_ok=True)
    return command
