"""The numbers from which the page counts multiply-accumulates, as `stepseg.macs` does."""

from typing import Any

from stepseg.macs import (
    NORM_OPERATIONS,
    final_norms,
    head_macs,
    head_norms,
    row_macs,
    row_norms,
)
from stepseg.model import StepSegmenter
from stepseg.vit.staged import StagedViT


def cost_constants(model: StepSegmenter) -> dict[str, Any]:
    """Sizes of encoder and heads; the heads in order, the decoder last."""
    vit = model.backbone
    blocks = (*model.exit_head_blocks, vit.depth)
    return {
        "dim": vit.dim,
        "patch": vit.patch_size,
        "prefix": vit.numbers.prefix,
        "linear": row_macs(vit.numbers),
        "norm": NORM_OPERATIONS,
        "normed": row_norms(vit.numbers),
        "normPre": int(vit.numbers.norm_pre),
        "heads": [
            _head(vit, block, head)
            for block, head in zip(blocks, map(model.head, blocks), strict=True)
        ],
    }


def _head(vit: StagedViT, block: int, head: Any) -> dict[str, int]:
    """What a head costs: linear in the tokens, products and operations of norms apart."""
    macs, norms = (
        [count(tokens) for tokens in (0, 1)]
        for count in (
            lambda tokens: head_macs(head, tokens, vit.dim),
            lambda tokens: head_norms(head, tokens) + final_norms(vit, head, tokens),
        )
    )
    return {
        "block": block,
        "macs": macs[0],
        "macsPerToken": macs[1] - macs[0],
        "norms": norms[0],
        "normsPerToken": norms[1] - norms[0],
    }
