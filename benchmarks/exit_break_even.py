"""How many tokens have to leave before an exit head has paid for itself, by operations?

    python benchmarks/exit_break_even.py --classes 19 150

A head costs its own products; every token that leaves saves the remaining blocks and a share of the
decoder. Counted by formula for one exit and no other; nothing is run.
"""

import argparse
import sys
from bisect import bisect_left

import torch

from stepseg.build import ModelConfig, build_segmenter
from stepseg.model import StepSegmenter
from stepseg.profile.macs import block_macs, head_macs

EXITS = {"vit_base": (6, 8), "vit_large": (8, 16, 18)}
TOKENS = (700, 1024, 1621, 4096)
"""Of the paper: 512 x 512 merged and whole, 1024 x 1024 merged and whole."""


def break_even(model: StepSegmenter, block: int, tokens: int) -> float:
    """The least share of the tokens that has to leave after a block, 1 if none suffices."""
    vit = model.backbone

    def rest(left: int) -> int:
        """Products of the remaining blocks and the decoder on the tokens that are left."""
        return (vit.depth - block) * block_macs(vit, left) + head_macs(model.decoder, left, vit.dim)

    def saved(leaving: int) -> int:
        return rest(tokens) - rest(tokens - leaving)

    cost = head_macs(model.decoder, tokens, vit.dim)
    return bisect_left(range(tokens), cost, key=saved) / tokens


def main(arguments: list[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[19, 150])
    options = parser.parse_args(arguments)
    print("| backbone | classes | exit after |" + "".join(f" {t} tokens |" for t in TOKENS))
    print("|---|---|---|" + "---|" * len(TOKENS))
    for backbone, blocks in EXITS.items():
        for classes in options.classes:
            config = {"num_classes": classes, "backbone": {"name": backbone}}
            with torch.device("meta"):
                model = build_segmenter(ModelConfig.from_dict(config), load_weights=False)
            for block in blocks:
                shares = (f" {100 * break_even(model, block, t):.1f} % |" for t in TOKENS)
                print(f"| {backbone} | {classes} | {block} |" + "".join(shares))
    return 0


if __name__ == "__main__":
    sys.exit(main())
