"""Looks through a split before it is trained on: ids, sizes, pairs, unreadable files.

A wrong label map shows up as a low mIoU days later; here it is a line in a list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepseg.data.dataset import load_label
from stepseg.data.files import Pixels, decode, read_pixels
from stepseg.data.labels import IGNORE_INDEX
from stepseg.data.layouts import Pair
from stepseg.data.parallel import map_items
from stepseg.data.specs import DatasetSpec
from stepseg.files.writing import write_json, write_png

_HISTOGRAM = 256


@dataclass
class CheckReport:
    """What was found in one split."""

    name: str
    split: str
    classes: tuple[str, ...]
    pairs: int = 0
    expected_pairs: int | None = None
    """Published number of pairs, None where none is published."""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_HISTOGRAM, dtype=np.int64))
    """Pixels per training id, [256]; index 255 counts the ignored ones."""
    images_with_class: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(_HISTOGRAM, dtype=np.int64)
    )
    """Images in which a training id occurs, [256]."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of images per (height, width)."""
    turned: list[str] = field(default_factory=list)
    """Names of images that a camera's note turns; their labels have to fit the upright image."""
    problems: list[str] = field(default_factory=list)
    """One line per fault, beginning with the file."""

    @property
    def ignored_share(self) -> float:
        """Share of the pixels that do not count, 0..1."""
        total = int(self.counts.sum())
        return float(self.counts[IGNORE_INDEX]) / total if total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for check.json."""
        num_classes = len(self.classes)
        return {
            "name": self.name,
            "split": self.split,
            "pairs": self.pairs,
            "expected_pairs": self.expected_pairs,
            "classes": list(self.classes),
            "class_pixels": {str(i): int(self.counts[i]) for i in range(num_classes)},
            "class_images": {str(i): int(self.images_with_class[i]) for i in range(num_classes)},
            "ignored_pixels": int(self.counts[IGNORE_INDEX]),
            "ignored_share": self.ignored_share,
            "sizes": {f"{w}x{h}": n for (h, w), n in self.sizes.most_common(20)},
            "distinct_sizes": len(self.sizes),
            "turned": self.turned,
            "problems": self.problems,
        }

    def table(self) -> str:
        """Readable summary, one line per class that occurs."""
        labelled = max(1, int(self.counts.sum() - self.counts[IGNORE_INDEX]))
        published = f" (published: {self.expected_pairs})" if self.expected_pairs else ""
        lines = [f"{self.name} {self.split}: {self.pairs} pairs{published}"]
        lines.append(f"{'id':>4}  {'class':<24} {'pixels':>14} {'share':>8} {'images':>7}")
        for index, name in enumerate(self.classes):
            pixels = int(self.counts[index])
            if pixels == 0:
                continue
            lines.append(
                f"{index:>4}  {name:<24} {pixels:>14} {pixels / labelled:>8.2%} "
                f"{int(self.images_with_class[index]):>7}"
            )
        absent = [name for index, name in enumerate(self.classes) if self.counts[index] == 0]
        if absent:
            lines.append(f"without pixels: {', '.join(absent)}")
        lines.append(f"ignored: {self.ignored_share:.2%} of all pixels")
        common = ", ".join(f"{w}x{h} ({n})" for (h, w), n in self.sizes.most_common(3))
        lines.append(f"sizes: {len(self.sizes)} different, most common {common or 'none'}")
        if self.turned:
            lines.append(
                f"turned by their cameras (EXIF): {len(self.turned)} images, first "
                f"{self.turned[0]}; they are read upright, so their labels have to be upright too"
            )
        lines.append(f"problems: {len(self.problems)}")
        return "\n".join(lines)


def check_split(spec: DatasetSpec, root: Path, split: str, processes: int = 1) -> CheckReport:
    """Read every image and label of a split.

    Raises:
        LayoutError: the split is not there at all.
    """
    dirs = spec.layout.dirs(root, split)
    pairs, unpaired = dirs.find(root)
    report = CheckReport(spec.name, split, spec.classes, pairs=len(pairs))
    report.expected_pairs = spec.layout.published.get(split)
    report.problems += [f"{path}: image without a label" for path in unpaired.without_label]
    report.problems += [f"{path}: label without an image" for path in unpaired.without_image]
    report.problems += [f"{path}: in {dirs.names}, but not there" for path in unpaired.absent]
    if not pairs:
        report.problems.append(f"{root}: split {split!r} is empty; expected {dirs.describe()}")
    jobs = [(pair, spec) for pair in pairs]
    for pair, found in zip(pairs, map_items(_check_pair, jobs, processes), strict=True):
        if found.counts is not None:
            report.counts += found.counts
            report.images_with_class += found.counts > 0
        if found.size is not None:
            report.sizes[found.size] += 1
        if found.turned:
            report.turned.append(pair.name)
        report.problems += found.problems
    return report


@dataclass
class _Found:
    """What one pair holds; None where it cannot be read."""

    counts: NDArray[np.int64] | None = None
    size: tuple[int, int] | None = None
    turned: bool = False
    problems: list[str] = field(default_factory=list)


def _check_pair(job: tuple[Pair, DatasetSpec]) -> _Found:
    pair, spec = job
    found = _Found()
    try:
        pixels, found.turned = decode(pair.image)
        found.size = (pixels.shape[0], pixels.shape[1])
    except ValueError as error:
        found.problems.append(str(error))
    try:
        label = load_label(pair, spec, found.size).numpy()
        found.counts = np.bincount(label.reshape(-1), minlength=_HISTOGRAM).astype(np.int64)
    except ValueError as error:
        found.problems.append(str(error))
    return found


def write_report(
    report: CheckReport,
    spec: DatasetSpec,
    root: Path,
    folder: Path,
    draw: Callable[[Pixels, NDArray[np.uint8]], Any],
    overlays: int = 8,
) -> None:
    """Write check.json and overlays/NAME.png of evenly spaced pairs.

    Args:
        draw: makes a picture of an image and its training ids.

    """
    write_json(folder / "check.json", report.as_dict())
    pairs, _ = spec.layout.dirs(root, report.split).find(root)
    count = min(overlays, len(pairs))
    for index in range(count):
        pair = pairs[index * len(pairs) // count]
        try:
            image = read_pixels(pair.image)
            label = load_label(pair, spec).numpy()
        except ValueError:
            continue  # it is among the problems already
        if image.shape[:2] == label.shape:
            name = pair.name.replace("/", "_")
            write_png(folder / "overlays" / f"{name}.png", np.asarray(draw(image, label)))
