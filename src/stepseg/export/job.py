"""One export with static shapes from checkpoint to verified file."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stepseg import __version__
from stepseg.checkpoint import Checkpoint, without_local_paths
from stepseg.export.agreement import (
    LARGEST_MARGIN,
    LEAST_AGREEMENT,
    Runner,
    compare,
    onnx_runner,
    program_runner,
)
from stepseg.export.onnx_file import OPSET, require, write_onnx
from stepseg.export.program import export_program, write_program
from stepseg.export.static import StaticSegmenter
from stepseg.model import Reduction, StepSegmenter
from stepseg.model_config import ReductionConfig
from stepseg.plain_types import check_types
from stepseg.profile.images import load_images
from stepseg.profile.speed import time_interleaved


@dataclass(frozen=True, slots=True)
class StaticExport:
    """What is exported, and how it is checked."""

    reduction: ReductionConfig
    image_size: tuple[int, int] | None = None
    """(height, width); None: the windows of the checkpoint's sliding protocol."""
    batch_size: int | None = 1
    """Images per call; None: any number."""
    scores: bool = False
    """Also return p of every class in every pixel."""
    opset: int = OPSET
    verify: int = 2
    """Images on which file and model are compared; 0: none."""
    images: str | None = None
    """Folder of them; None: generated street scenes."""
    seed: int = 0
    """Of generated scenes."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: at least 1, or null for any number")
        if self.verify < 0:
            raise ValueError(f"verify={self.verify} counts images; 0 turns it off")
        if self.opset < OPSET:
            raise ValueError(f"opset={self.opset}: the exporter writes opset {OPSET} and later")
        if self.image_size is not None and min(self.image_size) < 1:
            raise ValueError(f"image_size must be positive, got {list(self.image_size)}")


def export_static(
    checkpoint: Checkpoint, target: Path, format_: str, job: StaticExport
) -> dict[str, Any]:
    """Write an ONNX file or a ``.pt2`` program; returns figures for `result.json`.

    Args:
        format_: ``onnx`` or ``torch``.

    Raises:
        ValueError: what cannot be exported, or a file that disagrees with the model.

    """
    if format_ == "onnx":
        require("onnx", "onnxscript", *(["onnxruntime"] if job.verify else []))
    size = job.image_size or _window(checkpoint)
    images = load_images(job.images, size, job.verify, job.seed) if job.verify else None
    model = checkpoint.build().prepare_for_inference()
    reduction = job.reduction.build()
    static = StaticSegmenter(model, reduction, size, scores=job.scores)
    program = export_program(static, job.batch_size)
    exported = replace(without_local_paths(checkpoint.config), reduction=job.reduction)
    metadata = _metadata(replace(checkpoint, config=exported), static, job.batch_size)
    # Under its own name stands only what agrees with the model.
    written = target.with_name(f"unverified-{target.name}") if job.verify else target
    if format_ == "onnx":
        write_onnx(written, program, metadata, job.opset)
    else:
        write_program(written, program, metadata)
    figures = {
        "bytes": written.stat().st_size,
        "image_size": list(size),
        "tokens_per_stage": static.tokens_per_stage,
        "device": "cpu",
    }
    if images is None:
        return figures
    run = onnx_runner(written) if format_ == "onnx" else program_runner(written)
    figures |= _verify(model, reduction, run, images, job.batch_size or 1, written)
    written.replace(target)
    return figures


def _metadata(
    checkpoint: Checkpoint, static: StaticSegmenter, batch_size: int | None
) -> dict[str, Any]:
    """What the file says about itself, plain values: all that is needed to use it without stepseg.

    The reduction in ``model`` is the exported one.
    """
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


def _verify(
    model: StepSegmenter,
    reduction: Reduction,
    run: Runner,
    images_B3HW: torch.Tensor,
    batch_size: int,
    target: Path,
) -> dict[str, Any]:
    agreement = compare(model, reduction, run, images_B3HW, batch_size)
    if not agreement.is_close:
        raise ValueError(
            f"{target} disagrees with the model, do not use it: the same class in "
            f"{agreement.equal:.6f} of the pixels (at least {LEAST_AGREEMENT} is expected), "
            f"elsewhere {agreement.largest_margin:.1e} apart (at most {LARGEST_MARGIN})"
        )
    batch = images_B3HW[:1].repeat(batch_size, 1, 1, 1)
    timings = time_interleaved(
        {
            "model": lambda: model(batch, reduction=reduction).prediction(),
            "exported": lambda: run(batch),
        },
        warmup=2,
        iterations=7,
        memory=False,
    )
    return {
        "agreement": asdict(agreement),
        **{f"{name}_ms_p50": timing.p50_ms for name, timing in timings.items()},
        "threads": torch.get_num_threads(),
    }


def _window(checkpoint: Checkpoint) -> tuple[int, int]:
    crop = checkpoint.protocol.crop if checkpoint.protocol else None
    if crop is None:
        raise ValueError(
            "image_size= is missing: an exported model takes images of one size, such as "
            "image_size=[512,512]"
        )
    return crop
