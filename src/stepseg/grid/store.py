"""The rows of a grid that are finished, in its output directory, and what they belong to.

A grid that was killed, or that grows, runs again with the same ``hydra.run.dir``: finished rows are
taken as they are, the others evaluated. What is half done lies beside them
(`stepseg.grid.partial_counts`).
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepseg.data.dataset import SegmentationDataset
from stepseg.data.specs import DatasetSpec
from stepseg.files.writing import write_json
from stepseg.grid.partial_counts import Snapshots, unfinished
from stepseg.grid.points import Point


class GridStore:
    """Finished rows by the key of their point.

    Args:
        folder: ``grid`` in the output directory.
        identity: what the rows are figures of: checkpoint, data, protocol and so on, plain values.
        writes: whether this process writes; one of all does.

    Raises:
        ValueError: the folder holds rows of something else; says of what.

    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, writes: bool = True) -> None:
        self.folder, self.identity, self.writes = folder, dict(identity), writes
        self.rows: dict[str, dict[str, Any]] = {}
        self._path = folder / "rows.json"
        if self._path.is_file():
            self.rows = self._read()
        elif writes:
            self._write()

    def add(self, rows: Mapping[str, dict[str, Any]]) -> None:
        """Keep finished rows."""
        self.rows |= rows
        if self.writes:
            self._write()

    def passes(self, points: Sequence[Point], limit: int | None) -> list[list[Point]]:
        """What is left to do: the points of each pass over the data.

        A pass that was interrupted goes on with its points, as long as all are still wanted.

        Args:
            points: of the grid.
            limit: points per pass; None: no limit.

        """
        missing = {point_key(p): p for p in points if point_key(p) not in self.rows}
        passes = []
        for keys in unfinished(self.folder):
            if set(keys) <= set(missing):
                passes.append([missing.pop(key) for key in keys])
            elif self.writes:
                Snapshots(self.folder, keys).clear()
        # points that merge alike share most: they belong into one pass
        left = sorted(missing.values(), key=lambda point: json.dumps(point.values.get("merge")))
        step = limit or max(len(left), 1)
        return passes + [left[i : i + step] for i in range(0, len(left), step)]

    def snapshots(self, points: Sequence[Point]) -> Snapshots:
        """Of a pass."""
        return Snapshots(self.folder, [point_key(point) for point in points])

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads(self._path.read_text())
            rows, identity = dict(content["rows"]), dict(content["identity"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._path} is damaged ({error}); delete it to start over"
            ) from error
        for key, ours in self.identity.items():
            theirs = identity.get(key)
            if theirs != ours:
                before, now = _difference(theirs, ours)
                raise ValueError(
                    f"{self.folder} holds a grid with another {key}: {_short(before)}, not "
                    f"{_short(now)}; choose another hydra.run.dir, or delete that folder"
                )
        return rows

    def _write(self) -> None:
        write_json(self._path, {"identity": self.identity, "rows": self.rows})


def point_key(point: Point) -> str:
    """What makes a point itself, whatever the lists that it comes from."""
    return json.dumps(point.columns(), sort_keys=True)


def point_digest(point: Point) -> str:
    """The same as a name for files."""
    return hashlib.sha256(point_key(point).encode()).hexdigest()[:12]


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content, or of all files of a folder, as some checkpoints are."""
    if os.path.isdir(path):
        inside = sorted(file for file in Path(path).rglob("*") if file.is_file())
        hashes = [f"{file.relative_to(path)} {file_hash(file)}\n" for file in inside]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_identity(dataset: SegmentationDataset, name: str) -> dict[str, Any]:
    """Which images and labels, wherever they lie, and what the labels mean.

    Files count by their names and sizes in bytes.
    """
    digest = hashlib.sha256()
    for pair in dataset.pairs:
        sizes = [os.path.getsize(pair.image), os.path.getsize(pair.label)]
        digest.update(f"{pair.name} {sizes}\n".encode())
    return {
        "name": name,
        "split": dataset.split,
        "images": len(dataset),
        "files": digest.hexdigest()[:16],
        "classes": _classes_hash(dataset.spec),
    }


def _classes_hash(spec: DatasetSpec) -> str:
    """Names in their order, and the training id of every id in the files."""
    digest = hashlib.sha256(json.dumps(spec.classes).encode())
    for encoding, label_map in sorted(spec.label_maps.items()):
        digest.update(f"\n{encoding} {len(label_map.table)}\n".encode())
        digest.update(label_map.table.astype("<i2").tobytes())
    return digest.hexdigest()[:16]


def _difference(theirs: Any, ours: Any) -> tuple[Any, Any]:
    """Two values, or of two mappings the entries that differ: a message has room for few."""
    if not isinstance(theirs, Mapping) or not isinstance(ours, Mapping):
        return theirs, ours
    keys = [k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k)]
    return {k: theirs.get(k) for k in keys}, {k: ours.get(k) for k in keys}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else text[:117] + "..."
