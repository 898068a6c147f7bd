"""How far are accumulated gradients from those of one larger batch?

    python benchmarks/accumulation.py --parts 4 --size 2

Every part of an accumulation divides its sums by its own counts, so that parts weigh alike whatever
they hold; and the policy's BatchNorm sees one part at a time. Crops of generated scenes, of which a
share is ignored by half; the model of the main job from random weights, its dropout off.
"""

import argparse
import copy
import sys

import torch
from torch import Tensor
from training_loss import training_loss

from stepseg.build import ModelConfig, build_segmenter
from stepseg.data.scenes.street import draw_scene
from stepseg.data.specs import get_spec
from stepseg.losses import LossWeights
from stepseg.model import StepSegmenter

WEIGHTS = LossWeights(pixel=1.0, label_stride=4)
"""Of loss=scratch."""
SIDE = 256


def crops(count: int, seed: int, half_ignored: float) -> tuple[Tensor, Tensor]:
    """Images ``[N, 3, H, W]`` in [0, 1] and labels ``[N, H, W]``."""
    scenes = [draw_scene(SIDE, SIDE, [seed, index]) for index in range(count)]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in scenes])
    labels = torch.stack([torch.from_numpy(label) for _, label in scenes]).long()
    labels[: round(count * half_ignored), : SIDE // 2] = 255
    return images.float() / 255, labels


def gradients(model: StepSegmenter, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of segmenter and policy, each as one vector."""
    model = copy.deepcopy(model)  # running statistics are those of before
    training_loss(model(images), labels, WEIGHTS).backward()
    parts: dict[bool, list[Tensor]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        parts[name.startswith("policy.")].append(parameter.grad.flatten())
    return torch.cat(parts[False]), torch.cat(parts[True])


def main(arguments: list[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=int, default=4, help="batches that are accumulated")
    parser.add_argument("--size", type=int, default=2, help="crops of each")
    parser.add_argument("--trials", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    config = {
        "num_classes": len(get_spec("synthetic").classes),
        "backbone": {"name": "vit_tiny", "depth": 6, "pos_grid": 16},
        "policy": {"name": "lcnet_050"},
        "heads": {"dropout": 0.0},
        "reduction": {"exit": {"blocks": [3, 4]}},
    }
    model = build_segmenter(ModelConfig.from_dict(config)).train()
    print("difference of the gradients, percent of the larger batch's: mean (largest)")
    print("| half ignored | segmenter | policy |\n|---|---|---|")
    for share in (0.0, 0.25, 0.5):
        found = []
        for trial in range(options.trials):
            images, labels = crops(options.parts * options.size, trial, share)
            whole = gradients(model, images, labels)
            pairs = zip(images.split(options.size), labels.split(options.size), strict=True)
            parts = [gradients(model, *pair) for pair in pairs]
            means = [torch.stack(part).mean(0) for part in zip(*parts, strict=True)]
            found.append(
                [float((m - w).norm() / w.norm()) for m, w in zip(means, whole, strict=True)]
            )
        columns = 100 * torch.tensor(found)
        cells = [f"{c.mean():.1f} ({c.max():.1f})" for c in columns.unbind(1)]
        print(f"| {share:.0%} of the crops | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
