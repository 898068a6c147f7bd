"""COCO-Stuff 10k version 1.1: 171 classes, 9,000 training and 1,000 test images.

Source: Caesar, Uijlings, Ferrari, "COCO-Stuff: Thing and Stuff Classes in Context", CVPR 2018.
Files hold 0 = unlabeled, 1..91 things and 92..182 stuff; eleven thing ids have no pixels and are
left out. Version 1.0 used other ids (up to 183) and is refused.
"""

from __future__ import annotations

from stepseg.data.labels import IGNORE_INDEX, LabelMap
from stepseg.data.layouts import PairLayout, SplitDirs
from stepseg.data.palettes import distinct_colours
from stepseg.data.specs import DatasetSpec

ABSENT_IDS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91))
"""Thing ids that occur in no image: street sign, hat, shoe, eye glasses, plate, mirror, ..."""
USED_IDS = tuple(file_id for file_id in range(1, 183) if file_id not in ABSENT_IDS)
"""Ids in the files, in the order of the training ids."""

CLASSES = tuple(
    " ".join(name.split())
    for name in """     person, bicycle, car, motorcycle, airplane, bus, train, truck, boat,
    traffic light, fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep,
    cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee,
    skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
    tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich,
    orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
    dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
    toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush,
    banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet,
    ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff,
    dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood,
    flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house,
    leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement,
    pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock,
    roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone,
    straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick,
    wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other,
    waterdrops, window-blind, window-other, wood
    """.split(",")
)

_TO_TRAINING = {file_id: training_id for training_id, file_id in enumerate(USED_IDS)}


def _split(listed: str, converted: str) -> tuple[SplitDirs, ...]:
    """Arrangements in order of preference: converted (with or without moved images), original."""
    names, suffix = f"imageLists/{listed}.txt", "_labelTrainIds.png"
    pngs = f"annotations/{converted}"
    return (
        SplitDirs(f"images/{converted}", pngs, (".jpg",), suffix, encoding="one_based"),
        SplitDirs("images", pngs, (".jpg",), suffix, names=names, encoding="one_based"),
        SplitDirs("images", "annotations", (".jpg",), ".mat", names=names),
    )


SPEC = DatasetSpec(
    name="cocostuff10k",
    classes=CLASSES,
    palette=distinct_colours(CLASSES),
    layout=PairLayout(
        splits={"train": _split("train", "train2014"), "val": _split("test", "test2014")},
        published={"train": 9000, "val": 1000},
        hint="Get it with: stepseg-data prepare cocostuff10k ROOT",
        aliases={"test": "val"},
    ),
    label_maps={
        "ids": LabelMap.from_pairs({0: IGNORE_INDEX} | _TO_TRAINING),
        "one_based": LabelMap.one_based(len(CLASSES)),
    },
)
