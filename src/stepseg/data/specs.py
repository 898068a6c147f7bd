"""What a data set is: names, colours, label maps and split layout. One value per data set.

The values live in `stepseg.data.sets`, one module per data set; `get_spec` finds them by the name
that is used in `data=<name>`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from stepseg.data import sets
from stepseg.data.labels import IGNORE_INDEX, LabelMap
from stepseg.data.layouts import PairLayout

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class DatasetSpec:
    """Everything that distinguishes one data set from another."""

    name: str
    classes: tuple[str, ...]
    """Class names in the order of the training ids."""
    palette: tuple[Colour, ...]
    """One RGB colour per class, 0..255."""
    layout: PairLayout
    label_maps: Mapping[str, LabelMap]
    """From the encodings named in the layout to label maps; "ids" is the published encoding."""
    ignore_index: ClassVar[int] = IGNORE_INDEX
    """Training id of pixels that do not count; label maps lead to it."""

    def __post_init__(self) -> None:
        if len(self.palette) != len(self.classes):
            raise ValueError(
                f"{self.name}: {len(self.classes)} classes but {len(self.palette)} colours"
            )
        if not 2 <= self.num_classes <= IGNORE_INDEX:
            raise ValueError(
                f"{self.name}: 2 to 255 classes are possible, got {self.num_classes}; beside a "
                f"single class name what is not of it, such as background"
            )
        for encoding, label_map in self.label_maps.items():
            targets = label_map.table[label_map.table >= 0]
            wrong = targets[(targets >= self.num_classes) & (targets != IGNORE_INDEX)]
            if wrong.size:
                raise ValueError(
                    f"{self.name}: label map {encoding!r} leads to training id {wrong[0]}, "
                    f"but there are {self.num_classes} classes"
                )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def label_map(self) -> LabelMap:
        """The map of the published encoding."""
        return self.label_maps["ids"]


def available() -> list[str]:
    """Names that `get_spec` knows: the modules of `stepseg.data.sets`."""
    return sorted(module.name for module in pkgutil.iter_modules(sets.__path__))


def get_spec(name: str, root: Path | str | None = None) -> DatasetSpec:
    """Specification by name; "folder" reads its own from `root`.

    Raises:
        ValueError: no such data set, or no usable description in `root`.
    """
    if name not in available():
        raise ValueError(
            f"unknown data set {name!r}; known are {', '.join(available())}. "
            "For your own data use data=folder with a classes.yaml."
        )
    module = import_module(f"{sets.__name__}.{name}")
    if hasattr(module, "load_spec"):
        if root is None:
            raise ValueError(f"data set {name!r} is described by a file in its folder; pass root")
        from_root: DatasetSpec = module.load_spec(root)
        return from_root
    spec: DatasetSpec = module.SPEC
    return spec
