"""Where a data set keeps its images and labels, and how the two are paired.

A layout lists, per split, one or more `SplitDirs`; the first whose folders exist is used, so a data
set may be accepted in several published arrangements. Pairing is by name: the image's path relative
to its folder, less the image suffix, plus the label suffix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stepseg.files.finding import files_below

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


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
    """Images without a label and labels without an image, as paths."""

    without_label: list[Path]
    without_image: list[Path]


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
                files = len(self._by_name(root / folder, suffixes))
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
        return any(file.name.endswith(self.label_suffix) for file in labels)

    def find(self, root: Path) -> tuple[list[Pair], PairProblems]:
        """All pairs in name order, and what has no partner."""
        images = self._by_name(root / self.images, self.image_suffixes)
        labels = self._by_name(root / self.labels, (self.label_suffix,))
        if self.names is not None:
            names = read_names(root / self.names)
            missing = [
                root / self.images / f"{n}{self.image_suffixes[0]}" for n in names - set(images)
            ]
            images = {name: path for name, path in images.items() if name in names}
            labels = {name: path for name, path in labels.items() if name in names}
        else:
            missing = []
        pairs = [
            Pair(name, images[name], labels[name], self.encoding)
            for name in sorted(images.keys() & labels.keys())
        ]
        without_label = sorted(images[name] for name in images.keys() - labels.keys())
        without_image = sorted(labels[name] for name in labels.keys() - images.keys())
        return pairs, PairProblems(without_label, sorted(without_image + missing))

    @staticmethod
    def _by_name(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in files_below(folder):
            relative = path.relative_to(folder).as_posix()
            for suffix in suffixes:
                if relative.endswith(suffix) and not path.name.startswith("."):
                    name = relative.removesuffix(suffix)
                    if name in found:
                        raise LayoutError(
                            f"{found[name]} and {path} have the same name; keep one of them"
                        )
                    found[name] = path
                    break
        return found


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
            LayoutError: nothing found, or an image without a label.
        """
        dirs = self.dirs(root, split)
        pairs, problems = dirs.find(root)
        if problems.without_label or (dirs.names and problems.without_image):
            count = len(problems.without_label) + len(problems.without_image)
            first = (problems.without_label + problems.without_image)[0]
            raise LayoutError(
                f"{count} names of split {split!r} under {root} lack an image or a label, "
                f"first {first}; expected {dirs.describe()}"
            )
        if not pairs:
            raise LayoutError(
                f"split {split!r} under {root} is empty\n  expected {dirs.describe()}"
                f"\n  found {dirs.describe_found(root)}"
            )
        return pairs


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
