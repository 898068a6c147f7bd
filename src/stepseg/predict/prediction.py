"""The prediction for one image, with everything that pictures and tables are made from.

Letters: H x W pixels of the image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stepseg.data.files import Pixels
from stepseg.files.writing import write_atomically, write_png
from stepseg.pictures import figures
from stepseg.pictures.drawing import Labels, colour_picture, overlay_picture
from stepseg.pictures.token_maps import TokenMaps, View
from stepseg.protocol import HW

KINDS = {
    "colours": "the class colours",
    "overlay": "the class colours over the image",
    "superpatches": "the tokens after merging",
    "exits": "what remains after every exit head",
    "confidence": "the confidence of every token",
    "difference": "the difference to the ground truth",
    "dense": "the difference to the dense model",
}
"""Pictures that can be drawn, besides the label map itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """One image, segmented."""

    image: Pixels
    """uint8 ``[H, W, 3]``, upright."""
    labels: Labels
    """The class of every pixel, uint8 ``[H, W]``."""
    classes: tuple[str, ...]
    """Names by id."""
    palette: tuple[tuple[int, int, int], ...]
    """Colours by id."""
    tokens: tuple[int, ...]
    """Tokens in the blocks before each head, of all forward passes of this image together."""
    superpatches: Mapping[int, int]
    """How many tokens cover windows of 1 x 1, 2 x 2, ... patches."""
    exit_blocks: tuple[int, ...]
    """Blocks after which tokens could leave."""
    threshold: float | None
    """Of the exits' confidence; None: they go by another rule, or there are none."""
    gmacs: float
    """Multiply-accumulates in billions, the policy network's included."""
    seconds: float
    """From pixels on the host to the label map; of a batch its share."""
    views: tuple[View, ...]
    """What the model said about each window of the image."""
    seen_size: HW
    """(height, width) of the image as the model saw it."""

    def __repr__(self) -> str:
        height, width = self.labels.shape
        found = len(np.unique(self.labels))
        tokens = " > ".join(map(str, self.tokens))
        return (
            f"Prediction({width} x {height} px, {found} of {len(self.classes)} classes, "
            f"{tokens} tokens, {self.gmacs:.2f} GMACs)"
        )

    @property
    def exits(self) -> dict[int, int]:
        """How many tokens left after each exit block."""
        left = [before - after for before, after in pairwise(self.tokens)]
        return dict(zip(self.exit_blocks, left, strict=True))

    @property
    def maps(self) -> TokenMaps:
        """Where the tokens went, in pixels of the image as the model saw it."""
        return TokenMaps.assemble(self.views)

    @property
    def seen_image(self) -> Pixels:
        """The image in the size in which the model saw it."""
        return _resized(self.image, self.seen_size, Image.Resampling.BILINEAR)

    def overlay(self, opacity: float = 0.6) -> Image.Image:
        """The class colours over the image, of its size."""
        return overlay_picture(self.image, self.labels, self.palette, opacity)

    def picture(
        self, kind: str, truth: Labels | None = None, dense: Labels | None = None
    ) -> Image.Image:
        """Draw one of `KINDS`.

        Args:
            truth: the ground truth, training ids ``[H, W]``; `difference` needs it, `exits` and
                `dense` show it where it is given.
            dense: the dense model's labels; `dense` needs them.

        Raises:
            ValueError: an unknown kind, or one without what it needs.

        """
        if kind not in KINDS:
            raise ValueError(f"picture {kind!r}: choose from {', '.join(KINDS)}")
        if kind == "colours":
            return colour_picture(self.labels, self.palette)
        if kind == "overlay":
            return self.overlay()
        if kind == "superpatches":
            return figures.superpatch_figure(self.seen_image, self.maps)
        if kind == "confidence":
            return figures.confidence_figure(self.maps, self.threshold)
        if kind == "exits":
            return self._exit_figure(truth)
        named = (self.classes, self.palette)
        if kind == "difference":
            if truth is None:
                raise ValueError("the picture 'difference' needs the ground truth")
            return figures.error_figure(self.image, self.labels, truth, *named)
        if dense is None:
            raise ValueError("the picture 'dense' needs the labels of the dense model")
        return figures.change_figure(self.image, dense, self.labels, *named, truth)

    def save(self, path: str | Path, kind: str = "labels") -> Path:
        """Write the label map (class ids, greyscale PNG) or a picture, atomically.

        Args:
            path: of the file; for pictures its suffix says the format.
            kind: ``labels`` or one of `KINDS`.

        """
        path = Path(path)
        if kind == "labels":
            if path.suffix.lower() != ".png":
                raise ValueError(f"{path}: class ids survive in a .png only")
            write_png(path, self.labels)
        else:
            save_picture(path, self.picture(kind))
        return path

    def to_dict(self) -> dict[str, Any]:
        """Figures as plain values, under the names of `result.json`."""
        height, width = self.labels.shape
        ids, pixels = np.unique(self.labels, return_counts=True)
        return {
            "width": width,
            "height": height,
            "gmacs": self.gmacs,
            "seconds": self.seconds,
            "tokens_per_stage": list(self.tokens),
            "superpatches": {str(side): count for side, count in self.superpatches.items()},
            "exited_per_head": {str(block): count for block, count in self.exits.items()},
            "classes": {
                self.classes[i]: round(int(n) / self.labels.size, 6)
                for i, n in zip(ids, pixels, strict=True)
            },
        }

    def _exit_figure(self, truth: Labels | None) -> Image.Image:
        nearest = Image.Resampling.NEAREST
        return figures.exit_figure(
            self.seen_image,
            self.maps,
            self.exit_blocks,
            _resized(self.labels, self.seen_size, nearest),
            self.classes,
            self.palette,
            None if truth is None else _resized(truth, self.seen_size, nearest),
        )


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture atomically, in the format of the path's suffix.

    Raises:
        ValueError: a suffix that names no format.

    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: {path.suffix!r} is no picture format, use .png or .jpg")
    options = {"compress_level": 3} if kind == "PNG" else {}
    write_atomically(path, lambda file: picture.save(file, kind, **options))


def _resized(pixels: NDArray[np.uint8], size: HW, how: Image.Resampling) -> NDArray[np.uint8]:
    if pixels.shape[:2] == tuple(size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), how))
