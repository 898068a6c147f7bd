"""Folders inside a folder, and their files.

Links to folders are followed (`Path.rglob` leaves out what is behind them, without a word), except
back to a folder that the link lies in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def folders_below(folder: str | Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """The folder, then its subfolders, in the order of their paths; `above`: where it lies.

    Raises:
        OSError: a folder that cannot be read.

    """
    above |= {Path(folder).resolve()}
    with os.scandir(folder) as scan:
        inside = sorted((entry for entry in scan if entry.is_dir()), key=lambda entry: entry.name)
    yield Path(folder)
    for entry in inside:
        if not (entry.is_symlink() and Path(entry.path).resolve() in above):
            yield from folders_below(entry.path, above)


def files_below(folder: str | Path) -> Iterator[Path]:
    """Every file in the folder and its subfolders.

    Raises:
        OSError: a folder that cannot be read.

    """
    for place in folders_below(folder):
        with os.scandir(place) as scan:
            yield from (Path(entry.path) for entry in scan if not entry.is_dir())
