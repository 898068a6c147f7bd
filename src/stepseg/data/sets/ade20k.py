"""ADE20K SceneParse150: 150 classes, 20,210 training and 2,000 validation images.

Source: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017; class list of the release's
objectInfo150. Label files hold 0 = other and 1..150; predictions for the benchmark server need +1.
"""

from __future__ import annotations

from stepseg.data.labels import LabelMap
from stepseg.data.layouts import PairLayout, SplitDirs
from stepseg.data.palettes import distinct_colours
from stepseg.data.specs import DatasetSpec

CLASSES = tuple(
    " ".join(name.split())
    for name in """     wall, building, sky, floor, tree, ceiling, road, bed, window, grass,
    cabinet, sidewalk, person, earth, door, table, mountain, plant, curtain, chair, car, water,
    painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock,
    wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
    counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway,
    case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table,
    toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer,
    swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier,
    awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land, bannister,
    escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy,
    washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike,
    cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake,
    dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan,
    pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
    """.split(",")
)

SPEC = DatasetSpec(
    name="ade20k",
    classes=CLASSES,
    palette=distinct_colours(CLASSES),
    layout=PairLayout(
        splits={
            split: tuple(
                SplitDirs(f"{top}images/{folder}", f"{top}annotations/{folder}", (".jpg",))
                for top in ("ADEChallengeData2016/", "")
            )
            for split, folder in (("train", "training"), ("val", "validation"))
        },
        published={"train": 20210, "val": 2000},
        hint="Get it with: stepseg-data prepare ade20k ROOT",
        aliases={"training": "train", "validation": "val"},
    ),
    label_maps={"ids": LabelMap.one_based(len(CLASSES))},
)
