"""Label maps: what is written in a label file -> training ids 0..C-1 and the ignore index.

A map lists every id that a data set's files may contain. An id outside the list is an error that
names the file, because a silently ignored class shows up only as a low mIoU weeks later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

IGNORE_INDEX = 255

_UNKNOWN = -1


class LabelError(ValueError):
    """A label file that does not fit its data set."""


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Lookup table from file ids to training ids."""

    table: NDArray[np.int16]
    """[256] for ids up to 255, else [65536]; -1 marks an id that may not occur."""

    def __post_init__(self) -> None:
        if self.table.shape not in ((256,), (65536,)):
            raise ValueError(f"a label map has 256 or 65536 entries, got shape {self.table.shape}")
        if self.table.max() > IGNORE_INDEX or self.table.min() < _UNKNOWN:
            raise ValueError("training ids lie in 0..255; -1 marks ids that may not occur")
        self.table.setflags(write=False)

    @classmethod
    def from_pairs(cls, pairs: Mapping[int, int] | Iterable[tuple[int, int]]) -> LabelMap:
        """Build the smallest table that holds all file ids of `pairs` (file id, training id)."""
        entries = dict(pairs)
        largest = max(entries, default=0)
        if min(entries, default=0) < 0 or largest > 65535:
            raise ValueError(f"file ids lie in 0..65535, got {min(entries)}..{largest}")
        table = np.full(256 if largest < 256 else 65536, _UNKNOWN, dtype=np.int16)
        for file_id, training_id in entries.items():
            table[file_id] = training_id
        return cls(table)

    @classmethod
    def identity(cls, num_classes: int, ignored: Iterable[int] = (IGNORE_INDEX,)) -> LabelMap:
        """Files that already hold training ids; the ids in `ignored` become the ignore index."""
        pairs = {index: index for index in range(num_classes)}
        return cls.from_pairs(pairs | dict.fromkeys(ignored, IGNORE_INDEX))

    @classmethod
    def one_based(cls, num_classes: int) -> LabelMap:
        """Files with 0 = other and 1..C: training id = file id - 1, 0 is ignored."""
        pairs = {index + 1: index for index in range(num_classes)}
        return cls.from_pairs(pairs | {0: IGNORE_INDEX})

    @property
    def allowed_ids(self) -> list[int]:
        return np.flatnonzero(self.table != _UNKNOWN).tolist()

    def unknown_ids(self, ids_HW: NDArray[np.integer]) -> list[int]:
        """Ids that occur in the array and may not, in ascending order."""
        values = np.unique(ids_HW)
        in_table = (values >= 0) & (values < len(self.table))
        known = np.zeros(len(values), dtype=bool)
        known[in_table] = self.table[values[in_table]] != _UNKNOWN
        return values[~known].tolist()

    def apply(self, ids_HW: NDArray[np.integer], path: Path | str) -> NDArray[np.uint8]:
        """Map a label array to training ids.

        Raises:
            LabelError: an id is not in the map; the message names `path` and the id.
        """
        in_table = ids_HW.size == 0 or (ids_HW.min() >= 0 and ids_HW.max() < len(self.table))
        if in_table:
            mapped = self.table[ids_HW]
            if mapped.size == 0 or mapped.min() != _UNKNOWN:
                return mapped.astype(np.uint8)
        unknown = self.unknown_ids(ids_HW)
        raise LabelError(
            f"{path}: label id {unknown[0]} is not one of this data set's ids "
            f"({format_ids(self.allowed_ids)}); all unknown ids in the file: {unknown[:20]}. "
            "Correct the file, or the label map of the data set."
        )


def format_ids(ids: list[int]) -> str:
    """Short text for a sorted list of ids: [0, 1, 2, 255] -> '0-2, 255'."""
    if not ids:
        return "none"
    runs: list[list[int]] = []
    for value in ids:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
