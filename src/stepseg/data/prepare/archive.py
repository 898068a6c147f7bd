"""Unpacking zip files from the network without trusting their contents."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath


class ArchiveError(ValueError):
    """An archive that is damaged or would write outside its folder."""


def extract_zip(archive: Path, target: Path) -> None:
    """Unpack into `target`; existing files of the same name are replaced.

    Everything is unpacked beside `target` and moved when complete, so an interruption or a bad
    archive leaves no half-written data set.

    Raises:
        ArchiveError: damaged, too large for the disk, or with members that point outside.
    """
    target.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target, prefix=".unpacking."))
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            for member in members:
                _check_member(archive, member)
            _check_space(archive, members, target)
            opened.extractall(work, members)
        _move_into(work, target)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ArchiveError(
            f"{archive} is damaged or incomplete ({error}). Delete it and run the command again."
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename
    outside = (
        ".." in PurePosixPath(name).parts
        or ".." in PureWindowsPath(name).parts
        or PurePosixPath(name).is_absolute()
        or bool(PureWindowsPath(name).anchor)
    )
    mode = member.external_attr >> 16
    special = stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR)
    if outside or special:
        kind = "points outside its folder" if outside else "is a link or special file"
        raise ArchiveError(
            f"{archive}: member {name!r} {kind}; nothing was unpacked. This is not the published "
            "archive: delete it and get it from the publisher."
        )


def _check_space(archive: Path, members: list[zipfile.ZipInfo], target: Path) -> None:
    needed, free = sum(member.file_size for member in members), shutil.disk_usage(target).free
    if needed > free:
        raise ArchiveError(
            f"{archive} unpacks to {needed / 1e9:.1f} GB, but {target} has {free / 1e9:.1f} GB free"
        )


def _move_into(source: Path, target: Path) -> None:
    """Move files, merging folders that exist on both sides."""
    for entry in source.iterdir():
        destination = target / entry.name
        if entry.is_dir() and destination.is_dir():
            _move_into(entry, destination)
        else:
            entry.replace(destination)
