"""Cityscapes fine annotations: 19 classes, 2,975 training and 500 validation images of 2048x1024.

Source: Cordts et al., "The Cityscapes Dataset", CVPR 2016. Label files `*_labelIds.png` hold the
34 ids of the release and are mapped here; files `*_labelTrainIds.png`, which some tools write,
are accepted.
"""

from __future__ import annotations

from stepseg.data.labels import IGNORE_INDEX, LabelMap
from stepseg.data.layouts import PairLayout, SplitDirs
from stepseg.data.specs import DatasetSpec

# id in the files, name, colour; in the order of the training ids
_EVALUATED = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
_NUM_IDS = 34

_TO_TRAINING = dict.fromkeys((*range(_NUM_IDS), 255), IGNORE_INDEX) | {
    file_id: training_id for training_id, (file_id, _, _) in enumerate(_EVALUATED)
}

SPEC = DatasetSpec(
    name="cityscapes",
    classes=tuple(name for _, name, _ in _EVALUATED),
    palette=tuple(colour for _, _, colour in _EVALUATED),
    layout=PairLayout(
        splits={
            split: tuple(
                SplitDirs(
                    f"leftImg8bit/{split}",
                    f"gtFine/{split}",
                    image_suffixes=("_leftImg8bit.png",),
                    label_suffix=f"_gtFine_{kind}.png",
                    encoding=encoding,
                )
                for kind, encoding in (("labelIds", "ids"), ("labelTrainIds", "training_ids"))
            )
            for split in ("train", "val", "test")
        },
        published={"train": 2975, "val": 500},
        hint="How to obtain it: stepseg-data prepare cityscapes ROOT",
    ),
    label_maps={
        "ids": LabelMap.from_pairs(_TO_TRAINING),
        "training_ids": LabelMap.identity(len(_EVALUATED)),
    },
)
