"""The numbers from which the page counts multiply-accumulates, as `stepseg.profile.macs` does."""

from typing import Any

from stepseg.heads.atm import AtmHead
from stepseg.model import StepSegmenter
from stepseg.profile.macs import NORM_OPERATIONS, row_macs, row_norms


def cost_constants(model: StepSegmenter) -> dict[str, Any]:
    """Sizes of encoder and heads; the heads in order, the decoder last."""
    vit = model.backbone
    heads = [*zip(model.exit_head_blocks, model.exit_heads.values(), strict=True)]
    return {
        "dim": vit.dim,
        "patch": vit.patch_size,
        "prefix": vit.numbers.prefix,
        "linear": row_macs(vit.numbers),
        "norm": NORM_OPERATIONS,
        "normed": row_norms(vit.numbers),
        "normPre": int(vit.numbers.norm_pre),
        "finalNorm": int(vit.numbers.final_norm),
        "heads": [_head(block, head) for block, head in [*heads, (vit.depth, model.decoder)]],
    }


def _head(block: int, head: Any) -> dict[str, int]:
    assert isinstance(head, AtmHead)
    return {
        "block": block,
        "dim": head.head_dim,
        "classes": head.num_classes,
        "layers": len(head.layers),
        "modules": 1 + len(head.earlier_blocks),
    }
