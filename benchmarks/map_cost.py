"""What the map of class ids costs: all scores in pixels and their argmax, or disputed quads only.

    python benchmarks/map_cost.py --resolution 512 --classes 150

The cost of `stepseg.ops.upsample` grows with the share of places where neighbouring cells disagree.
Timed in turns: a generated street scene (the share of each class in a cell as its score), scores in
which all cells disagree, and the plain way, which costs the same for any scores.
"""

import argparse
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg.data.scenes.street import draw_scene
from stepseg.ops.upsample import upsampled_argmax
from stepseg.profile.speed import time_interleaved

PATCH = 16


def scene_scores(side: int, classes: int) -> Tensor:
    """Scores of a street scene ``[1, Y, X, C]``: how much of a cell each class covers."""
    label = torch.from_numpy(draw_scene(side, side, (0, 0))[1]).long()
    label = label.masked_fill(label >= classes, 0)
    shares_CHW = F.one_hot(label, classes).permute(2, 0, 1).float()
    return F.avg_pool2d(shares_CHW, PATCH).permute(1, 2, 0)[None].contiguous()


def disputed_share(scores_BYXC: Tensor) -> float:
    """Share of the squares between four neighbouring cells whose leading classes differ."""
    leader = scores_BYXC.argmax(-1)
    corners = (leader[:, :-1, :-1], leader[:, :-1, 1:], leader[:, 1:, :-1], leader[:, 1:, 1:])
    quads = torch.stack(corners, -1)
    return float((quads != quads[..., :1]).any(-1).float().mean())


def plain_argmax(scores_BYXC: Tensor) -> Tensor:
    """All scores in pixels, then their argmax."""
    scores_BCYX = scores_BYXC.permute(0, 3, 1, 2)
    return F.interpolate(scores_BCYX, scale_factor=PATCH, mode="bilinear").argmax(1)


def main(arguments: list[str] | None = None) -> int:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of the CPU")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    scene = scene_scores(options.resolution, options.classes).to(options.device)
    scores = {"street scene": scene, "all disputed": torch.rand_like(scene)}
    calls = {name: lambda s=s: upsampled_argmax(s, PATCH) for name, s in scores.items()}
    calls["plain"] = lambda: plain_argmax(scene)
    timings = time_interleaved(
        calls, warmup=3, iterations=options.iterations, device=options.device
    )
    for name, timing in timings.items():
        share = f"{100 * disputed_share(scores[name]):.0f} % disputed" if name in scores else "any"
        print(
            f"{name:13s} {share:14s} {timing.p50_ms:7.1f} ms, CPU {timing.cpu_p50_ms:7.1f} ms, "
            f"{timing.peak_memory_mb:6.1f} MiB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
