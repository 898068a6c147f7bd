"""CamVid, the 11-class version of 367 training and 101 validation frames.

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", 2009; classes grouped as
in SegNet (Badrinarayanan et al., 2017). Label files hold the ids 0-10 and 11 for void. Besides
images/SPLIT with annotations/SPLIT the arrangement of the SegNet tutorial (SPLIT, SPLITannot) is
read.
"""

from __future__ import annotations

from stepseg.data.labels import LabelMap
from stepseg.data.layouts import PairLayout, SplitDirs
from stepseg.data.specs import DatasetSpec

(
    SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST, VOID,
) = range(12)  # fmt: skip

COLOURS = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign/symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
"""By class, in the order of the training ids."""

SPEC = DatasetSpec(
    name="camvid",
    classes=tuple(COLOURS),
    palette=tuple(COLOURS.values()),
    layout=PairLayout(
        splits={
            split: (
                SplitDirs(f"images/{split}", f"annotations/{split}"),
                SplitDirs(split, f"{split}annot"),
            )
            for split in ("train", "val", "test")
        },
        published={"train": 367, "val": 101},
        hint="How to obtain it: stepseg-data prepare camvid ROOT",
    ),
    label_maps={"ids": LabelMap.identity(len(COLOURS), ignored=(VOID, 255))},
)
