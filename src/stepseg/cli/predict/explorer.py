"""`explorer=true` of `stepseg-predict`: the page of `stepseg.explorer` for its inputs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stepseg.checkpoint import Checkpoint
from stepseg.data.files import ImageFileError, Pixels, read_pixels
from stepseg.explorer import write_explorer
from stepseg.predict.inputs import File
from stepseg.predict.segmenter import Segmenter
from stepseg.protocol import Protocol, TooMuchWorkError, check_work, resized_size
from stepseg.telling import tell

MOST_IMAGES = 12


def check_explorer(files: Sequence[File]) -> None:
    """Refuse inputs that no page can hold.

    Raises:
        ValueError: videos, or too many images.

    """
    videos = [file.path for file in files if file.is_video]
    if videos:
        raise ValueError(f"explorer=true shows images, and {videos[0]} is a video")
    if len(files) > MOST_IMAGES:
        raise ValueError(
            f"explorer=true runs the model some 20 times per image and keeps them in one page: at "
            f"most {MOST_IMAGES} images, here are {len(files)}; name some: input=[a.jpg,b.jpg]"
        )


def write_page(
    path: Path, segmenter: Segmenter, files: Sequence[File], checkpoint: Checkpoint
) -> Path | None:
    """Write the page; None when no input can be shown, of which others tell."""
    images, notes = {}, []
    for file in files:
        try:
            pixels = read_pixels(file.path)
        except ImageFileError:
            continue
        try:
            images[file.name] = _as_seen(pixels, segmenter.protocol)
        except TooMuchWorkError:
            continue
        if images[file.name].shape != pixels.shape:
            height, width = pixels.shape[:2]
            notes.append(f"{file.name} was resized from {width} × {height} px for the model.")
    if not images:
        return None

    def progress(done: int, total: int) -> None:
        runs = total // len(images)
        if done % runs == 0:
            tell(f"explorer: {done // runs}/{len(images)} images")

    return write_explorer(
        segmenter.model,
        images,
        path,
        segmenter.classes,
        segmenter.palette,
        reduction=segmenter.reduction,
        title=f"{checkpoint.data['name']}, {checkpoint.config.backbone.name}",
        notes=[*_about_protocol(segmenter.protocol), *notes],
        command=f"stepseg-predict ckpt_path={checkpoint.path.name} input=IMAGE",
        progress=progress,
    )


def _as_seen(pixels: Pixels, protocol: Protocol) -> Pixels:
    check_work(pixels.shape[0], pixels.shape[1], protocol)
    height, width = resized_size(pixels.shape[0], pixels.shape[1], protocol)
    if (height, width) == pixels.shape[:2]:
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _about_protocol(protocol: Protocol) -> list[str]:
    notes = []
    if protocol.mode == "slide":
        height, width = protocol.crop or (0, 0)
        notes.append(
            f"Predictions of this model are made in windows of {width} × {height} px; here it saw "
            f"every image whole, so that tokens, operations and maps differ from them."
        )
    if protocol.flip or protocol.scales != (1.0,):
        notes.append("Averages over scales and mirrored images are left out here.")
    return notes
