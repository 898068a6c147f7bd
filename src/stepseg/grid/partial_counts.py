"""What an evaluation has counted so far, on disk: a killed one goes on in the middle of the data.

All figures come from sums and extremes over images (`stepseg.metrics.joining.Sums`), so that a
part is a set of images with theirs, and disjoint parts join. Every process of a run writes its own
part now and then, as a whole. The parts of a killed run are joined before the next one starts,
whatever its number of processes.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stepseg.files.writing import write_atomically
from stepseg.metrics.joining import Sums, join
from stepseg.weights.torch_file import read_torch_file


@dataclass(frozen=True, slots=True)
class Part:
    """Some images and what was counted on them, for each of some points."""

    points: list[str]
    images: list[str]
    sums: list[Sums]

    def plus(self, other: "Part") -> "Part":
        """Both; they have no image in common."""
        sums = [
            {key: join(key, value, theirs[key]) for key, value in ours.items()}
            for ours, theirs in zip(self.sums, other.sums, strict=True)
        ]
        return Part(self.points, [*self.images, *other.images], sums)


class Snapshots:
    """The parts of one pass over the data.

    Args:
        folder: where they lie.
        points: keys of the points that the pass evaluates.

    """

    def __init__(self, folder: Path, points: Sequence[str]) -> None:
        self.folder, self.points = folder, list(points)
        self.name = hashlib.sha256("\n".join(points).encode()).hexdigest()[:16]

    def write(self, rank: int, images: Sequence[str], sums: Sequence[Sums]) -> None:
        """Replace the part of one process."""
        self._write(f"rank{rank}", Part(self.points, list(images), list(sums)))

    def join(self, images: Collection[str], processes: int) -> None:
        """Make one part of all, for one process to do before any reads it.

        At least one image per process is left to do, if need be by forgetting a part: a process
        without images would leave the others waiting.

        Args:
            images: all that the pass evaluates.
            processes: of the run that starts now.

        """
        joined: Part | None = None
        files = list(self.folder.glob(f"{self.name}.*.pt"))
        parts = sorted(map(read_part, files), key=lambda part: -len(part.images))
        for part in parts:
            if joined is None:
                candidate = part
            elif set(part.images) <= set(joined.images):
                continue  # an older part that went into this one
            else:
                candidate = joined.plus(part)
            if len(images) - len(candidate.images) >= processes:
                joined = candidate
        if joined is not None:
            self._write("joined", joined)
        for file in files:
            if joined is None or file != self._path("joined"):
                file.unlink()

    def joined(self) -> Part | None:
        """What earlier runs have counted; None: nothing."""
        path = self._path("joined")
        return read_part(path) if path.is_file() else None

    def clear(self) -> None:
        """Remove all parts: the pass is finished."""
        for file in self.folder.glob(f"{self.name}.*.pt"):
            file.unlink()

    def _path(self, who: str) -> Path:
        return self.folder / f"{self.name}.{who}.pt"

    def _write(self, who: str, part: Part) -> None:
        content = {"points": part.points, "images": part.images, "sums": part.sums}
        write_atomically(self._path(who), lambda file: torch.save(content, file))


def read_part(path: Path) -> Part:
    """Read a part.

    Raises:
        ValueError: damaged; names the file.

    """
    try:
        content = read_torch_file(path)
        return Part(content["points"], content["images"], content["sums"])
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}): delete it to count its images again"
        ) from error


def unfinished(folder: Path) -> list[list[str]]:
    """The points of every pass that has left parts behind."""
    passes = {tuple(read_part(file).points) for file in sorted(folder.glob("*.pt"))}
    return [list(points) for points in sorted(passes)]
