"""CPU time of what `stepseg-accelerate` learns, apart from the dense runs: 500 images of 512 x 512.

Generated scenes; their labels stand for the dense model's maps. User seconds of the process, which
a busy machine hardly changes.

    OMP_NUM_THREADS=1 python benchmarks/lesson.py outputs/lesson efficientnet_lite0 lcnet_050
"""

import argparse
import resource
from pathlib import Path

import torch
from PIL import Image

from stepseg.accelerate.learn import Lesson, teach
from stepseg.accelerate.samples import Samples
from stepseg.build import build_policy
from stepseg.data.scenes.street import draw_scene
from stepseg.dcts.policy import PolicyNetwork
from stepseg.model_config import PolicyConfig
from stepseg.predict.inputs import find_files
from stepseg.predict.outputs import OutputFolder
from stepseg.protocol import Protocol

IMAGES, SIDE = 500, 512


def main() -> None:
    """Draw, teach, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("policies", nargs="+")
    given = parser.parse_args()
    images, labels = given.output / "images", given.output / "dense" / "labels"
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    for index in range(IMAGES):
        image, label = draw_scene(SIDE, SIDE, (7, index))
        Image.fromarray(image).save(images / f"{index:03d}.jpg", quality=92)
        Image.fromarray(label.astype("uint8")).save(labels / f"{index:03d}.png")
    samples = Samples(find_files(str(images)), OutputFolder(given.output / "dense"))
    shown = Protocol("slide", resize_short=SIDE, crop=(SIDE, SIDE), even=True, antialias=True)
    for name in given.policies:
        torch.manual_seed(0)
        policy = build_policy(PolicyConfig(name=name))
        assert isinstance(policy, PolicyNetwork)
        start = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        teach(policy, samples, shown, Lesson())
        seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - start
        print(f"{name}: {seconds:.0f} user seconds, {torch.get_num_threads()} thread(s)")


if __name__ == "__main__":
    main()
