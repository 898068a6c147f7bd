"""Who works in a folder that several machines share, without the locks of its file system.

A holder writes into its file every few seconds. One whose file stands still is gone: after
`SILENCE` seconds by the watch of whoever waits, so that no two clocks are compared; at once if it
was a process of this machine that is no more.

What is assumed of the file system: of all who create a file exclusively one succeeds, and whoever
opens a file sees what was synced to it a minute ago. Network file systems keep that; buckets that
are mounted as folders do not.
"""

import contextlib
import os
import platform
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from gpu_pool.errors import SweepError
from gpu_pool.processes import is_alive

BEAT = 2.0
"""Seconds between two signs of life."""

SILENCE = 120.0
"""Seconds without one after which a holder elsewhere is gone; more than a server of NFS takes to
free the locks of a machine that died."""

LOOK = 0.5
"""Seconds between two looks at the files of others."""


class FolderTakenError(SweepError):
    """Somebody else works in the folder."""


class Lease:
    """A file that this process holds.

    Args:
        handle: open file descriptor of it, made by `take`; a child may go on with it.

    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self.handle = handle
        self._count = 0
        self._written = -SILENCE

    def beat(self) -> bool:
        """Give a sign of life if one is due; returns whether the lease is still ours."""
        if time.monotonic() - self._written < BEAT:
            return True
        try:
            if not self._is_ours():
                return False
            self._count += 1
            # Into our own file: what took its place is left alone.
            os.pwrite(self.handle, f"{_me()} {self._count}\n".encode(), 0)
            os.fsync(self.handle)
        except OSError:  # a server that does not answer is nobody's end at once
            return time.monotonic() - self._written < SILENCE / 2
        self._written = time.monotonic()
        return True

    def release(self) -> None:
        """Let others in."""
        with contextlib.suppress(OSError):
            if self._is_ours():
                self.path.unlink()
            os.close(self.handle)

    def _is_ours(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.handle), os.lstat(self.path))
        except FileNotFoundError:
            return False


def take(path: Path, patience: float) -> Lease:
    """Hold a file, once whoever held it is gone.

    Args:
        path: its folder exists.
        patience: seconds that a living holder gets to end.

    Raises:
        FolderTakenError: it lives on.

    """
    watch, until, alone = Watch(), time.monotonic() + patience, True
    while True:
        with contextlib.suppress(FileExistsError):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            lease = Lease(path, os.open(path, flags, 0o644))
            lease.beat()
            if not alone:
                time.sleep(LOOK)  # another may have found it abandoned in the same moment
            lease._written = -SILENCE
            if lease.beat():
                return lease
            os.close(lease.handle)
        if watch.is_gone(path):
            alone = False
            path.unlink(missing_ok=True)
        elif watch.moves(path) and time.monotonic() > until:
            raise FolderTakenError(f"{path.parent} is in use by {watch.holder(path)}")
        else:
            time.sleep(LOOK)


def await_all(paths: Iterable[Path], patience: float) -> None:
    """Wait until nobody holds any of the files; raises like `take`."""
    watch, until = Watch(), time.monotonic() + patience
    held = list(paths)
    while held := [path for path in held if not watch.is_gone(path)]:
        for path in held:
            if watch.moves(path) and time.monotonic() > until:
                raise FolderTakenError(f"{path.parent} is in use by {watch.holder(path)}")
        time.sleep(LOOK)


class Watch:
    """Looks at the files of others again and again."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[str, float, bool]] = {}

    def is_gone(self, path: Path) -> bool:
        """Whether nobody holds the file any more."""
        try:
            text = path.read_text(errors="replace")
        except FileNotFoundError:
            return True
        now = time.monotonic()
        before, since, moved = self._seen.get(path, (text, now, False))
        if before != text:
            since, moved = now, True
        self._seen[path] = (text, since, moved)
        return now - since > SILENCE or _ended_here(text)

    def moves(self, path: Path) -> bool:
        """Whether there was a sign of life since the first look."""
        return self._seen[path][2]

    def holder(self, path: Path) -> str:
        """Who it is, for people."""
        host, _, pid = (*self._seen[path][0].split(), "?", "?", "?")[:3]
        return f"process {pid} on {host}"


def _me() -> str:
    return f"{platform.node()} {_machine()} {os.getpid()}"


@cache
def _machine() -> str:
    """Where process ids mean the same processes: a boot of a machine, a container."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def _ended_here(text: str) -> bool:
    words = text.split()
    return len(words) == 4 and words[1] == _machine() and not is_alive(int(words[2]))
