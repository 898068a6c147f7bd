"""A confusion matrix as a CSV file: a line per labelled class, a column per predicted one, pixels.

Beside `result.json`, because it grows with the square of the classes. NumPy alone, so that reports
read it without a model.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepseg.files.spreadsheet import csv_lines
from stepseg.files.writing import write_text

CORNER = "label"
MAX_CLASSES = 1000
"""A file with more is not read."""


def write_confusion(path: Path, confusion_CC: ArrayLike, classes: Sequence[str]) -> None:
    """Write counts by (label, prediction), ``[C, C]``, atomically."""
    counts = np.asarray(confusion_CC)
    lines = [[name, *row.tolist()] for name, row in zip(classes, counts, strict=True)]
    write_text(path, csv_lines([[CORNER, *classes], *lines]))


def read_confusion(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Class names and counts by (label, prediction), ``[C, C]``.

    Raises:
        ValueError: it is none; names the file.

    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
        counts = np.array([[int(cell) for cell in line[1:]] for line in lines], np.int64)
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is no confusion matrix: {error}") from error
    names = header[1:]
    if not 0 < len(names) <= MAX_CLASSES or counts.shape != (len(names), len(names)):
        raise ValueError(f"{path} is no confusion matrix: its shape is {counts.shape}")
    return names, counts
