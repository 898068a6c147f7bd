"""What a data set is: names, colours, label maps and split layout. One value per data set.

The values live in one short file per data set (`camvid.py`, `ade20k.py`, ...); `get_spec` finds them
by the name used in `data=<name>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from stepseg.data.labels import IGNORE_INDEX, LabelMap
from stepseg.data.layouts import PairLayout

Colour = tuple[int, int, int]

_MODULES = {
    "synthetic": "stepseg.data.scenes_spec",
    "camvid": "stepseg.data.camvid",
}


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
    ignore_index: int = IGNORE_INDEX
    """Training id of pixels that do not count; always 255 in tensors."""

    def __post_init__(self) -> None:
        if len(self.palette) != len(self.classes):
            raise ValueError(
                f"{self.name}: {len(self.classes)} classes but {len(self.palette)} colours"
            )
        if not 1 <= self.num_classes <= IGNORE_INDEX:
            raise ValueError(f"{self.name}: 1 to 255 classes are possible, got {self.num_classes}")
        if self.ignore_index != IGNORE_INDEX:
            raise ValueError(
                f"{self.name}: training labels use 255 as ignore index; map the file id "
                f"{self.ignore_index} to 255 in the label map instead"
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
    """Names of the data sets with a built-in specification."""
    return sorted(_MODULES)


def get_spec(name: str) -> DatasetSpec:
    """Built-in specification by name.

    Raises:
        ValueError: no such data set.
    """
    if name not in _MODULES:
        raise ValueError(
            f"unknown data set {name!r}; built in: {', '.join(available())}. "
            "For your own data use data=folder with a classes.yaml."
        )
    spec: DatasetSpec = import_module(_MODULES[name]).SPEC
    return spec
