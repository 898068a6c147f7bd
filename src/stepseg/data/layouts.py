"""Where a data set keeps its images and labels, and how the two are paired.

A layout lists, per split, one or more `SplitDirs`; the first whose folders exist is used, so a data
set may be accepted in several published arrangements. Pairing is by name: the image's path relative
to its folder, less the image suffix, plus the label suffix. Suffixes are compared without regard to
capitals. Nothing is left out silently: what has no partner is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stepseg.files.finding import files_below

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".jp2",
    ".avif", ".jfif",
)  # fmt: skip
"""Of the formats that `stepseg.data.files` reads; here, because finding files needs no torch."""
_SHOWN = 3


class LayoutError(ValueError):
    """The folder does not hold the data set in an expected arrangement."""


class Pair(NamedTuple):
    """One image with its label file."""

    name: str
    image: Path
    label: Path
    encoding: str
    """Key of the label map that the label file is read with."""


class PairProblems(NamedTuple):
    """What has no partner, as paths."""

    without_label: list[Path]
    """Images."""
    without_image: list[Path]
    """Labels."""
    absent: list[Path]
    """Images that a list of names has, and that are not there, nor are their labels."""

    def lines(self) -> list[str]:
        """A line for each kind that there is: how many, and the first of them."""
        found = []
        for paths, what in (
            (self.without_label, "images without a label"),
            (self.without_image, "labels without an image"),
            (self.absent, "listed images that are not there"),
        ):
            if paths:
                more = ", ..." if paths[_SHOWN:] else ""
                found.append(f"{what} ({len(paths)}): {', '.join(map(str, paths[:_SHOWN]))}{more}")
        return found


@dataclass(frozen=True)
class SplitDirs:
    """One arrangement of one split, all paths relative to the root."""

    images: str
    labels: str
    image_suffixes: tuple[str, ...] = IMAGE_SUFFIXES
    label_suffix: str = ".png"
    names: str | None = None
    """Text file with one name per line; without it every image in `images` belongs to the split."""
    encoding: str = "ids"
    """Key of the label map that these label files are read with."""
    choice: str = ""
    """How a user says which suffix images have, with {} for the suffix; empty: it is fixed."""

    def describe(self) -> str:
        listed = f", names in {self.names}" if self.names else ""
        image = f"{self.images}/**/NAME{self.image_suffixes[0]}"
        return f"{image} + {self.labels}/**/NAME{self.label_suffix}{listed}"

    def describe_found(self, root: Path) -> str:
        """What is there in its place."""
        parts = []
        for folder, suffixes in (
            (self.images, self.image_suffixes),
            (self.labels, (self.label_suffix,)),
        ):
            if (root / folder).is_dir():
                files = len(self._files(root / folder, suffixes))
                parts.append(f"{folder} with {files} files NAME{suffixes[0]}")
            else:
                parts.append(f"no folder {folder}")
        if self.names is not None and not (root / self.names).is_file():
            parts.append(f"no file {self.names}")
        return ", ".join(parts)

    def exists(self, root: Path) -> bool:
        """Whether the folders are there and hold a label of this kind."""
        if not (root / self.images).is_dir() or not (root / self.labels).is_dir():
            return False
        if self.names is not None and not (root / self.names).is_file():
            return False
        labels = files_below(root / self.labels)
        return any(_suffix_of(file.name, (self.label_suffix,)) is not None for file in labels)

    def find(self, root: Path) -> tuple[list[Pair], PairProblems]:
        """All pairs in name order, and what has no partner."""
        images = self._by_name(root / self.images, self.image_suffixes)
        labels = self._by_name(root / self.labels, (self.label_suffix,))
        if self.names is not None:
            names = read_names(root / self.names)
            absent = [
                root / self.images / f"{name}{self.image_suffixes[0]}"
                for name in names - set(images) - set(labels)
            ]
            images = {name: path for name, path in images.items() if name in names}
            labels = {name: path for name, path in labels.items() if name in names}
        else:
            absent = []
        pairs = [
            Pair(name, images[name], labels[name], self.encoding)
            for name in sorted(images.keys() & labels.keys())
        ]
        without_label = sorted(images[name] for name in images.keys() - labels.keys())
        without_image = sorted(labels[name] for name in labels.keys() - images.keys())
        return pairs, PairProblems(without_label, without_image, sorted(absent))

    def _by_name(self, folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for name, path in self._files(folder, suffixes):
            if name in found:
                raise LayoutError(self._same_name(found[name], path, suffixes))
            found[name] = path
        return found

    @staticmethod
    def _files(folder: Path, suffixes: tuple[str, ...]) -> list[tuple[str, Path]]:
        """Files with one of the suffixes, under their names, which may be the same."""
        found = []
        for path in files_below(folder):
            suffix = _suffix_of(path.name, suffixes)
            if suffix is not None and not path.name.startswith("."):
                relative = path.relative_to(folder).as_posix()
                found.append((relative[: len(relative) - len(suffix)], path))
        return found

    def _same_name(self, first: Path, second: Path, suffixes: tuple[str, ...]) -> str:
        """Either may be a label in the same folder: never advise to delete one."""
        same = f"{first} and {second} have the same name"
        kinds = {_suffix_of(path.name, suffixes) for path in (first, second)}
        if len(kinds) == 1 or not self.choice:
            return f"{same}; rename one of them, or move what does not belong here elsewhere"
        label = _suffix_of(f"NAME{self.label_suffix}", suffixes)
        image = next(suffix for suffix in suffixes if suffix in kinds - {label})
        return f"{same}; say which are the images, such as {self.choice.format(image)}"


@dataclass(frozen=True)
class PairLayout:
    """The splits of a data set."""

    splits: Mapping[str, tuple[SplitDirs, ...]]
    hint: str = ""
    """What to do when the data is not there, one sentence."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of splits, e.g. the folder names that the data set itself uses."""
    published: Mapping[str, int] = field(default_factory=dict)
    """Number of images per split as published."""

    def dirs(self, root: Path, split: str) -> SplitDirs:
        """The arrangement present under `root`.

        Raises:
            LayoutError: unknown split or no arrangement found; tells what is expected and what is
            there.
        """
        split = self.aliases.get(split, split)
        if split not in self.splits:
            raise LayoutError(f"unknown split {split!r}; this data set has {sorted(self.splits)}")
        for dirs in self.splits[split]:
            if dirs.exists(root):
                return dirs
        lines = [f"no {split!r} data under {root}", f"found {_describe_folder(root)}"]
        for number, dirs in enumerate(self.splits[split]):
            lines.append(f"{'or' if number else 'expected'} {dirs.describe()}")
            if root.is_dir():
                lines.append(f"  found {dirs.describe_found(root)}")
        raise LayoutError("\n  ".join(lines + [self.hint] * bool(self.hint)))

    def pairs(self, root: Path, split: str) -> list[Pair]:
        """The pairs of a split in name order.

        Raises:
            LayoutError: nothing found, or an image or a label without its partner.
        """
        dirs = self.dirs(root, split)
        pairs, problems = dirs.find(root)
        lines = problems.lines()
        no_image = not pairs and not problems.without_label
        if no_image and (dirs.names is None or not lines):
            raise LayoutError(
                f"split {split!r} under {root} is empty\n  expected {dirs.describe()}"
                f"\n  found {dirs.describe_found(root)}"
            )
        if lines:
            suffixes = ", ".join(dirs.image_suffixes)
            lines[:0] = [f"split {split!r} under {root} has files without a partner"]
            lines.append(f"expected {dirs.describe()}; images end in {suffixes}")
            lines.append("add what is missing, or move what does not belong to it elsewhere")
            raise LayoutError("\n  ".join(lines + [self.hint] * bool(self.hint)))
        return pairs


def _suffix_of(name: str, suffixes: tuple[str, ...]) -> str | None:
    """The one of the suffixes that a file's name ends in, whatever its capitals."""
    name = name.lower()
    return next((suffix for suffix in suffixes if name.endswith(suffix.lower())), None)


def read_names(path: Path) -> set[str]:
    """Names in a text file, one per line; empty lines do not count."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {line for line in lines if line}


def _describe_folder(root: Path, limit: int = 12) -> str:
    if not root.exists():
        return "nothing: the folder does not exist"
    if not root.is_dir():
        return "a file, not a folder"
    entries = sorted(f"{p.name}/" if p.is_dir() else p.name for p in root.iterdir())
    if not entries:
        return "an empty folder"
    return ", ".join(entries[:limit]) + (
        f", ... ({len(entries)} in all)" if entries[limit:] else ""
    )
