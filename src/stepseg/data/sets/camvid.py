"""CamVid, the 11-class version of 367 training and 101 validation frames.

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", 2009; classes grouped as in
SegNet (Badrinarayanan et al., 2017).
"""

from __future__ import annotations

from stepseg.data.labels import LabelMap
from stepseg.data.layouts import PairLayout, SplitDirs
from stepseg.data.specs import DatasetSpec

_VOID = 11

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign/symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)

PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)

SPEC = DatasetSpec(
    name="camvid",
    classes=CLASSES,
    palette=PALETTE,
    layout=PairLayout(
        splits={
            split: (SplitDirs(f"images/{split}", f"annotations/{split}"),)
            for split in ("train", "val", "test")
        },
        hint="Label files hold the ids 0-10 and 11 for void.",
    ),
    label_maps={"ids": LabelMap.identity(len(CLASSES), ignored=(_VOID, 255))},
)
