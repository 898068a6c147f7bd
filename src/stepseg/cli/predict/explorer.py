"""`explorer=true` of `stepseg-predict`: the page of `stepseg.explorer` for its inputs."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from stepseg.checkpoint import Checkpoint
from stepseg.cli.typed import typed_of
from stepseg.data.files import ImageFileError, Pixels, read_pixels
from stepseg.explorer import write_explorer
from stepseg.explorer.plan import make_plan
from stepseg.predict.inputs import File
from stepseg.predict.segmenter import Segmenter
from stepseg.protocol import Protocol, TooMuchWorkError, check_work, show_first
from stepseg.telling import tell

MOST_IMAGES = 12
SHOWING = "protocol resize_short crop stride scales flip window_batch dtype".split()
"""Options that change what a model sees, and so belong to a command that repeats it."""


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


def check_replayable(segmenter: Segmenter) -> None:
    """Refuse a model or reduction that no page can replay, before images are segmented.

    Raises:
        ValueError: names it.

    """
    make_plan(segmenter.model, reduction=segmenter.reduction)


def write_page(
    path: Path,
    segmenter: Segmenter,
    files: Sequence[File],
    checkpoint: Checkpoint,
    typed: Sequence[str],
) -> Path | None:
    """Write the page; None when no input can be shown, of which others tell.

    Args:
        path: of the page.
        segmenter: whose model and reduction it shows.
        files: of its images.
        checkpoint: as users know the model.
        typed: overrides of this command; those that its figures depend on go into the page's.

    """
    images, notes = {}, []
    for file in files:
        try:
            pixels = read_pixels(file.path)
        except ImageFileError:
            continue
        try:
            images[file.name] = as_seen(pixels, segmenter.protocol)
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

    shown = ["stepseg-predict", f"ckpt_path={checkpoint.path.name}", *typed_of(SHOWING, typed)]
    return write_explorer(
        segmenter.model,
        images,
        path,
        segmenter.classes,
        segmenter.palette,
        reduction=segmenter.reduction,
        title=f"{checkpoint.data['name']}, {checkpoint.config.backbone.name}",
        notes=[*_about_protocol(segmenter.protocol), *notes],
        command=shlex.join([*shown, "input=IMAGE"]),
        typed=[shlex.quote(word) for word in typed_of(["reduction"], typed)],
        progress=progress,
    )


def as_seen(pixels: Pixels, protocol: Protocol) -> Pixels:
    """An image as a prediction shows it first, at its plain scale and in 8 bits.

    Raises:
        TooMuchWorkError: the protocol is absurd for an image of this size.

    """
    check_work(pixels.shape[0], pixels.shape[1], protocol)
    image_B3HW = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    seen_B3HW = show_first(image_B3HW, replace(protocol, scales=(1.0,)))
    eight_bits_B3HW = (seen_B3HW * 255).round().to(torch.uint8)  # what a picture in a page holds
    return eight_bits_B3HW[0].permute(1, 2, 0).numpy()


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
