"""Which processes a job has started, and how to end them all.

A job is more than one process: DDP ranks, loader workers, W&B's service. On Linux they are found in
/proc, as descendants of the job's supervisor or members of its session, whatever process group they
chose. Elsewhere the job's process group stands for them.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

PROC = Path("/proc")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def living(session: int, group: int | None = None) -> list[int]:
    """Processes of a session and their descendants, without the session's leader.

    Args:
        session: process id of its leader, dead or alive.
        group: process group that stands for them where there is no /proc.

    Returns:
        Process ids; a negative one is a process group, as `os.kill` takes it.

    """
    if not (PROC / "self" / "stat").is_file():
        return [-group] if group is not None and _group_lives(group) else []
    table = _process_table()
    found: set[int] = {pid for pid, (_, own_session) in table.items() if own_session == session}
    found.add(session)
    grew = True
    while grew:
        children = {pid for pid, (parent, _) in table.items() if parent in found}
        grew = not children <= found
        found |= children
    return sorted(found - {session})


def end(find: Callable[[], list[int]], *, patience: float) -> int:
    """End processes: TERM, and KILL for those that live on after `patience` seconds.

    Args:
        find: lists those still alive; asked again and again, because they may start others.
        patience: between the two signals.

    Returns:
        How many had to be told.

    """
    first = find()
    send(first, signal.SIGTERM)
    if not wait_until_gone(find, patience):
        for _ in range(3):
            send(find(), signal.SIGKILL)
            if wait_until_gone(find, 1):
                break
    return len(first)


def wait_until_gone(find: Callable[[], list[int]], seconds: float) -> bool:
    """Whether `find` comes up empty within that time."""
    until = time.monotonic() + seconds
    while find():
        if time.monotonic() >= until:
            return False
        time.sleep(0.05)
    return True


def send(pids: Iterable[int], signum: int) -> None:
    """Signal processes, some of which may be gone already."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; zombies do not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not (PROC / "self" / "stat").is_file() or pid in _process_table()


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent dies, so that they stay findable (Linux)."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux)."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _process_table() -> dict[int, tuple[int, int]]:
    """Parent and session of every process that is no zombie."""
    table = {}
    for entry in PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            text = (entry / "stat").read_text()
        except OSError:  # ended meanwhile
            continue
        # "pid (name) state parent group session": the name may hold spaces and parentheses
        state, parent, _, session = text.rpartition(")")[2].split()[:4]
        if state not in "ZX":
            table[int(entry.name)] = (int(parent), int(session))
    return table


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
