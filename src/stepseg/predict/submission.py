"""Label maps as a benchmark's server wants them: in the data set's own ids, in one zip file.

Cityscapes counts ``labelIds`` (7: road), ADE20K's 150 classes begin at 1; models predict 0 to C-1.
"""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stepseg.data.labels import IGNORE_INDEX
from stepseg.data.specs import available
from stepseg.files.writing import write_atomically
from stepseg.pictures.drawing import Labels
from stepseg.predict.truth import published_spec

_NO_DATE = (1980, 1, 1, 0, 0, 0)
"""The same label maps give the same file."""


def published_ids(data_name: str, num_classes: int) -> NDArray[np.integer]:
    """The data set's id of every class, the first where it has several, ``[C]``.

    Raises:
        ValueError: the data set has no numbering of its own that is known here.

    """
    spec = published_spec(data_name, num_classes)
    if spec is None:
        known = ", ".join(name for name in available() if name != "folder")
        raise ValueError(
            f"submission=true needs a model of a data set with ids of its own ({known}); this one "
            f"knows {num_classes} classes of {data_name!r}"
        )
    table = spec.label_map.table
    first = [np.flatnonzero(table == index)[0] for index in range(num_classes)]
    return np.array(first, np.uint8 if len(table) <= IGNORE_INDEX + 1 else np.uint16)


def check_file_names(names: Iterable[str]) -> None:
    """Refuse images that would have the same name in the file, which has no folders.

    Raises:
        ValueError: names two of them.

    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(PurePosixPath(name).name, name)
        if other != name:
            raise ValueError(
                f"submission=true: {other} and {name} would have the same name in the file: rename "
                f"one, or submit them apart"
            )


def write_submission(
    path: Path, labels: Iterable[tuple[str, Labels]], ids: NDArray[np.integer]
) -> None:
    """Write the file, atomically and image by image.

    Args:
        labels: names and label maps, training ids.
        ids: `published_ids`.

    """

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, label_HW in labels:
                png = io.BytesIO()
                Image.fromarray(ids[label_HW]).save(png, "PNG")
                entry = zipfile.ZipInfo(f"{PurePosixPath(name).name}.png", _NO_DATE)
                archive.writestr(entry, png.getvalue())

    write_atomically(path, write)
