"""COCO-Stuff's `.mat` annotations as PNG files, which load many times faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stepseg.data.files import read_label
from stepseg.data.layouts import LayoutError, read_names
from stepseg.data.parallel import map_items
from stepseg.data.prepare.inside import inside
from stepseg.data.sets.cocostuff10k import SPEC
from stepseg.files.writing import write_png

_FOLDERS = {"train": "train2014", "test": "test2014"}


def convert_cocostuff(
    root: Path, processes: int, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write `annotations/{train,test}2014/NAME_labelTrainIds.png` for every listed `.mat` file.

    The PNGs hold training id + 1 and 0 for unlabeled, as mmsegmentation writes them. Files that
    are there already are kept. Returns how many were written.

    Raises:
        LayoutError: a list or an annotation is missing.
        OutsideError: a name or a link that leads out of the folder.
        LabelError: ids of another version of the data set.
    """
    jobs = []
    for listed, folder in _FOLDERS.items():
        names_file = root / "imageLists" / f"{listed}.txt"
        if not names_file.is_file():
            raise LayoutError(f"{names_file} not found; {root} is not COCO-Stuff 10k v1.1")
        for name in sorted(read_names(names_file)):
            png = inside(root, root / "annotations" / folder / f"{name}_labelTrainIds.png")
            if not png.is_file():
                jobs.append((root / "annotations" / f"{name}.mat", png))
    missing = [mat for mat, _ in jobs if not mat.is_file()]
    if missing:
        raise LayoutError(f"{len(missing)} annotations are missing, first {missing[0]}")
    for done, _ in enumerate(map_items(_convert_one, jobs, processes), start=1):
        if progress is not None:
            progress(done, len(jobs))
    return len(jobs)


def _convert_one(job: tuple[Path, Path]) -> None:
    mat, png = job
    training_ids = SPEC.label_map.apply(read_label(mat), mat)
    write_png(png, training_ids + np.uint8(1))  # wraps: the ignore index 255 becomes 0
