"""When an exit head pays for itself, by operations.

A head costs its own products; every token that leaves saves the remaining blocks and a share of the
decoder. What it would have cost later heads as well is left out: where a head does not pay by this
count it may be left out (`reduction.exit.blocks`), and nothing but accuracy changes. Time may ask
for more: heads are many small products.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from stepseg.macs import block_macs, head_cost, queries
from stepseg.model import StepSegmenter


def break_even(model: StepSegmenter, block: int, tokens: int) -> float:
    """The least share of an image's tokens that has to leave after a block, above 1 if none does.

    Args:
        model: has a head there; may lie on the meta device.
        block: counted from 1.
        tokens: that the head sees.

    """
    vit, decoder = model.backbone, model.decoder
    remaining = range(block + 1, vit.depth + 1)

    def rest(left: int) -> int:
        """Products of the remaining blocks and the decoder on the tokens that are left."""
        blocks = sum(block_macs(vit, left, queries=queries(model, b)) for b in remaining)
        return blocks + head_cost(vit, decoder, left, tokens)[0]

    def saved(leaving: int) -> int:
        return rest(tokens) - rest(tokens - leaving)

    cost = head_cost(vit, model.head(block), tokens, tokens)[0]
    return bisect_left(range(tokens + 1), cost, key=saved) / max(tokens, 1)


def exit_shares(
    model: StepSegmenter, exit_blocks: Sequence[int], tokens_per_stage: Sequence[float]
) -> list[dict[str, Any]]:
    """Per exit its ``block``, the share of its tokens that ``leaves``, ``break_even``, ``pays``.

    Args:
        model: as of `break_even`.
        exit_blocks: where tokens may leave.
        tokens_per_stage: means per image before every exit and before the decoder.

    """
    shares = []
    for block, before, after in zip(
        exit_blocks, tokens_per_stage, tokens_per_stage[1:], strict=False
    ):
        leaves = 1 - after / before if before else 0.0
        least = break_even(model, block, round(before))
        shares.append(
            {"block": block, "leaves": leaves, "break_even": least, "pays": leaves >= least}
        )
    return shares


def unpaid(exits: Sequence[dict[str, Any]]) -> str:
    """One line about the exits of `exit_shares` that cost more than they save; empty: none does."""
    costly = [
        f"block {e['block']} ({100 * e['leaves']:.1f} % leave, {100 * e['break_even']:.1f} % would "
        f"have to)"
        for e in exits
        if not e["pays"]
    ]
    if not costly:
        return ""
    rest = [e["block"] for e in exits if e["pays"]]
    without = f"reduction.exit.blocks={rest}".replace(" ", "") if rest else "reduction.exit=null"
    return f"exits cost more than they save after {' and '.join(costly)}; without them: {without}"
