"""What an exported model says about itself: everything that is needed to use it without stepseg."""

from typing import Any

from stepseg import __version__
from stepseg.checkpoint import Checkpoint
from stepseg.export.static import StaticSegmenter


def export_metadata(
    checkpoint: Checkpoint, static: StaticSegmenter, batch_size: int | None
) -> dict[str, Any]:
    """Plain values by name; the reduction in ``model`` is the exported one."""
    outputs = {"labels": "int64 [B, H, W], index into classes"}
    if static.with_scores:
        outputs["scores"] = "float32 [B, C, H, W], probability of every class"
    return {
        "producer": f"stepseg {__version__}",
        "classes": checkpoint.data["classes"],
        "palette": checkpoint.data["palette"],
        "ignore_index": checkpoint.data["ignore_index"],
        "data": checkpoint.data["name"],
        "image_size": list(static.image_size),
        "batch_size": batch_size or "any",
        "input": "images: float32 [B, 3, H, W], RGB in 0..1; normalised inside",
        "outputs": outputs,
        "tokens_per_stage": static.tokens_per_stage,
        "model": checkpoint.config.to_dict(),
        "step": checkpoint.step,
        "about": checkpoint.about,
    }
