"""How many tokens have to leave before an exit head has paid for itself, by operations?

    python benchmarks/exit_break_even.py --classes 19 150

A head costs its own products; every token that leaves saves the remaining blocks and a share of the
decoder. Counted by formula for one exit and no other. The last column is what a head costs beside:
the operators that it calls, each a launch on a GPU where no graph holds them, counted on one image.
"""

import argparse
import sys
from itertools import product
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stepseg.build import ModelConfig, build_segmenter
from stepseg.heads.atm import AtmHead
from stepseg.heads.linear import KINDS, ExitHead
from stepseg.packed import PackedTokens, TokenLayout
from stepseg.profile.break_even import break_even

EXITS = {"vit_base": (6, 8), "vit_large": (8, 16, 18)}
TOKENS = (700, 1024, 1621, 4096)
"""Of the paper: 512 x 512 merged and whole, 1024 x 1024 merged and whole."""


class Operators(TorchDispatchMode):
    """Counts operators that compute something; views launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def operators(head: ExitHead, dim: int) -> int:
    """Operators of a head that is prepared for inference."""
    head = head.to_empty(device="cpu").eval()
    for tensor in (*head.parameters(), *head.buffers()):
        tensor.zero_()
    if isinstance(head, AtmHead):
        head.cache_first_query()
    layout = TokenLayout.full(1, (4, 4), "cpu")
    tokens = PackedTokens.from_layout(torch.zeros(16, dim), layout)
    with Operators() as counted:
        head(tokens)
    return counted.count


def main(arguments: list[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[19, 150])
    parser.add_argument("--heads", nargs="+", default=["atm"], choices=KINDS)
    options = parser.parse_args(arguments)
    print(
        "| backbone | classes | exit head | after |"
        + "".join(f" {t} tokens |" for t in TOKENS)
        + " operators |"
    )
    print("|---|---|---|---|" + "---|" * (len(TOKENS) + 1))
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
            cells = [f"{100 * break_even(model, block, t):.1f} %" for t in TOKENS]
            cells.append(str(operators(model.head(block), model.backbone.dim)))
            print(" | ".join([f"| {backbone}", str(classes), kind, str(block), *cells]) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
