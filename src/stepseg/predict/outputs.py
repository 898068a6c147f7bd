"""The output folder: one file per image and kind, written whole, and what is already there.

=====================  ==========================================================
``labels/NAME.png``    class ids, greyscale, of the size of the image
``KIND/NAME.png``      pictures, see `stepseg.predict.prediction.KINDS`
``records/NAME.json``  figures; written last, so that it vouches for the others
=====================  ==========================================================
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepseg.data.files import read_label
from stepseg.data.labels import IGNORE_INDEX
from stepseg.files.writing import write_json
from stepseg.pictures.drawing import Labels
from stepseg.predict.inputs import Item
from stepseg.predict.prediction import KINDS, Prediction, save_picture


class OutputFolder:
    """Writes results and finds finished ones.

    Args:
        settings: all that results depend on, besides the image; with others they are out of date.
        keep_finished: leave what an earlier run has finished as it is.

    Raises:
        ValueError: an unknown kind.

    """

    def __init__(
        self,
        folder: str | Path,
        kinds: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        keep_finished: bool = True,
    ) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise ValueError(f"pictures={unknown}: choose from {', '.join(KINDS)}")
        self.folder, self.kinds = Path(folder), tuple(dict.fromkeys(kinds))
        self.keep_finished = keep_finished
        text = json.dumps(settings or {}, sort_keys=True, default=str)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def path(self, kind: str, name: str) -> Path:
        """Where the file of a kind lies: ``labels``, ``records`` or a picture."""
        suffix = ".json" if kind == "records" else ".png"
        return self.folder / kind / f"{name}{suffix}"

    def finished(self, item: Item) -> dict[str, Any] | None:
        """The record of an earlier run with the same settings, whose files are all there.

        Raises:
            OSError: no file can have this name; better known before the image is segmented.

        """
        path = self.path("records", item.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (path.exists() and self.keep_finished):
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            fits = record["settings"] == self.fingerprint and record["stamp"] == list(item.stamp)
            files = [self.folder / file for file in record["files"].values()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record if fits and all(file.is_file() for file in files) else None

    def labels(self, name: str) -> Labels:
        """The label map of a finished image."""
        return read_label(self.path("labels", name)).astype(np.uint8)

    def write(
        self,
        item: Item,
        prediction: Prediction,
        truth: Labels | None = None,
        dense: Prediction | None = None,
    ) -> dict[str, Any]:
        """Write all files of an image; returns its record."""
        dense_labels = None if dense is None else dense.labels
        files = {"labels": self.path("labels", item.name)}
        prediction.save(files["labels"])
        for kind in self.kinds:
            if kind == "difference" and truth is None:
                continue
            files[kind] = self.path(kind, item.name)
            save_picture(files[kind], prediction.picture(kind, truth, dense_labels))
        record: dict[str, Any] = {
            "name": item.name,
            "source": str(item.file.path),
            **prediction.to_dict(),
        }
        if truth is not None:
            counted = truth != IGNORE_INDEX
            right = (prediction.labels == truth)[counted]
            record["pixel_accuracy"] = float(right.mean()) if right.size else None
        if dense is not None:
            record["differs_from_dense"] = float((dense.labels != prediction.labels).mean())
            record["gmacs_dense"] = dense.gmacs
        record |= {
            "files": {kind: p.relative_to(self.folder).as_posix() for kind, p in files.items()},
            "stamp": list(item.stamp),
            "settings": self.fingerprint,
        }
        write_json(self.path("records", item.name), record)
        return record
