"""Files of a folder and of those in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: str | Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Every file in the folder and its subfolders, in the order of their names.

    Links to folders are followed (`Path.rglob` leaves their files out, without a word), except
    back to a folder that the link lies in (`above`).

    Raises:
        OSError: a folder that cannot be read.

    """
    above |= {Path(folder).resolve()}
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        if not entry.is_dir():
            yield Path(entry.path)
        elif not (entry.is_symlink() and Path(entry.path).resolve() in above):
            yield from files_below(entry.path, above)
