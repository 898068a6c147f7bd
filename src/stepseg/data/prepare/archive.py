"""Unpacking zip files from the network without trusting their contents."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from stepseg.data.prepare.inside import OutsideError, inside


class ArchiveError(ValueError):
    """An archive that is damaged or would write outside its folder."""


def extract_zip(archive: Path, target: Path) -> None:
    """Unpack into `target`; existing files of the same name are replaced.

    Everything is unpacked beside `target` and moved when complete, so an interruption or a bad
    archive leaves no half-written data set.

    Raises:
        ArchiveError: damaged, too large for the disk, or with members that point outside.
        OutsideError: `target` holds a link that the members would go through.
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
        moves = list(_moves(archive, work, target))
        for source, destination in moves:
            source.replace(destination)
    except (ArchiveError, OutsideError):
        raise
    except Exception as error:  # zipfile raises many types: encrypted, cut off, names too long, ...
        raise ArchiveError(
            f"{archive} is damaged, or cannot be unpacked here ({error}). Delete it and run the "
            f"command again."
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


def _moves(archive: Path, source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """From where to where each entry moves; folders that exist on both sides are merged."""
    for entry in source.iterdir():
        destination = inside(target, target / entry.name)
        if entry.is_dir() and destination.is_dir():
            yield from _moves(archive, entry, destination)
        elif destination.exists() and entry.is_dir() != destination.is_dir():
            kinds = ("file", "folder") if destination.is_dir() else ("folder", "file")
            raise ArchiveError(
                f"{archive} holds a {kinds[0]} where {destination} is a {kinds[1]}; nothing was "
                f"unpacked. Remove it and run the command again."
            )
        else:
            yield entry, destination
