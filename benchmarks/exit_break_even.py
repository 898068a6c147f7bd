"""How many tokens have to leave before an exit head has paid for itself, by operations?

    python benchmarks/exit_break_even.py --classes 19 150

A head costs its own products; every token that leaves saves the remaining blocks and a share of the
decoder. Counted by formula for one exit and no other; nothing is run.
"""

import argparse
import sys
from itertools import product

import torch

from stepseg.build import ModelConfig, build_segmenter
from stepseg.heads.linear import KINDS
from stepseg.profile.break_even import break_even

EXITS = {"vit_base": (6, 8), "vit_large": (8, 16, 18)}
TOKENS = (700, 1024, 1621, 4096)
"""Of the paper: 512 x 512 merged and whole, 1024 x 1024 merged and whole."""


def main(arguments: list[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[19, 150])
    parser.add_argument("--heads", nargs="+", default=["atm"], choices=KINDS)
    options = parser.parse_args(arguments)
    print("| backbone | classes | exit head | after |" + "".join(f" {t} tokens |" for t in TOKENS))
    print("|---|---|---|---|" + "---|" * len(TOKENS))
    for (backbone, blocks), classes, kind in product(EXITS.items(), options.classes, options.heads):
        config = {
            "num_classes": classes,
            "backbone": {"name": backbone},
            "heads": {"exit": kind},
            "reduction": {"exit": {"blocks": blocks}},
        }
        with torch.device("meta"):
            model = build_segmenter(ModelConfig.from_dict(config), load_weights=False)
        for block in blocks:
            shares = (f" {100 * break_even(model, block, t):.1f} % |" for t in TOKENS)
            print(f"| {backbone} | {classes} | {kind} | {block} |" + "".join(shares))
    return 0


if __name__ == "__main__":
    sys.exit(main())
