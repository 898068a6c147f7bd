"""One command at a time in a folder: two would mix their results or delete each other's files.

The lock is the system's, on a file in the folder, and ends with its process however that ends: a
file that was left behind holds nobody up. Network file systems mostly know such locks; where one
does not, the launcher that holds the folder decides, else the process and the host in the file.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".stepseg.lock"
HELD = "GPU_POOL_HOLDS"
"""Variable by which a launcher says which folder it keeps others out of."""
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class FolderInUseError(ValueError):
    """Another command works in the folder."""


@contextmanager
def folder_lock(folder: Path, command: str) -> Iterator[None]:
    """Hold a folder, which is made if need be; only one process of a command does.

    Args:
        command: told to whoever comes second.

    Raises:
        FolderInUseError: says who holds it.
        OSError: the lock is a link, or nothing can be written.

    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    handle = _acquire(path)
    try:
        note = {"pid": os.getpid(), "host": socket.gethostname(), "command": command}
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps(note | {"since": time.strftime("%F %T")}).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: nobody else's is deleted
        os.close(handle)


def _acquire(path: Path) -> int:
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(path, flags, 0o644)
        try:
            _lock(handle, path)
            if _is_still(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder has just ended and deleted it


def _lock(handle: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        # not flock: a lock of the process, which its loader processes do not inherit
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _holder(handle)
        held = os.environ.get(HELD) == str(path.parent)
        if error.errno in UNSUPPORTED and (held or not _is_alive(holder)):
            return
        who = "another command"
        if holder:
            who = "{command} (process {pid} on {host}, since {since})".format_map(holder)
        raise FolderInUseError(
            f"{path.parent} is in use by {who}: wait for its end, or choose another output "
            f"directory (hydra.run.dir, of stepseg-predict output)"
        ) from error


def _holder(handle: int) -> dict[str, Any] | None:
    """What the file says; None if that is nothing that we wrote."""
    try:
        note = json.loads(os.pread(handle, 4096, 0))
        return {key: str(note[key])[:200] for key in ("command", "pid", "host", "since")}
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _is_alive(holder: dict[str, Any] | None) -> bool:
    """Whether the process runs; one on another host is believed to."""
    if holder is None or holder["host"] != socket.gethostname():
        return holder is not None
    try:
        os.kill(int(holder["pid"]), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return int(holder["pid"]) != os.getpid()


def _is_still(handle: int, path: Path) -> bool:
    """Whether the file that is locked is the one that lies there."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
