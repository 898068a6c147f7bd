"""The surface that generated scenes are painted on: pixels and labels change together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stepseg.data.scenes.textures import FloatArray

REFERENCE = 512
"""Shorter image edge that all pixel sizes of the scenes refer to."""

Point = tuple[float, float]
"""(x, y) in pixels."""
Colour = tuple[float, float, float]
Shape = Callable[[ImageDraw.ImageDraw], object]


class Canvas:
    """An image [H, W, 3] of levels 0..255 and its label map [H, W]."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.height = height
        self.width = width
        self.rng = rng
        self.pixels: FloatArray = np.zeros((height, width, 3), dtype=np.float32)
        self.label: NDArray[np.uint8] = np.zeros((height, width), dtype=np.uint8)
        self.unit = min(height, width) / REFERENCE

    def length(self, low: float, high: float | None = None) -> int:
        """A length given (or drawn uniformly) at reference size, in pixels of this image."""
        size = low if high is None else self.rng.uniform(low, high)
        return max(1, round(size * self.unit))

    def colour(self, colours: Sequence[Colour], jitter: float = 18) -> FloatArray:
        """One of `colours`, varied, float32 [3]."""
        chosen = np.asarray(colours[int(self.rng.integers(len(colours)))], dtype=np.float32)
        return chosen + self.rng.uniform(-jitter, jitter, 3).astype(np.float32)

    def paint(
        self, shape: Shape, class_id: int, colour: FloatArray, shade: FloatArray | None = None
    ) -> None:
        """Fill `shape` with `colour` plus `shade`, a [H, W] map of brightness offsets in levels."""
        found = self._inside(shape)
        if found is None:
            return
        area, inside = found
        paint = np.broadcast_to(colour, (*inside.shape, 3))
        if shade is not None:
            paint = paint + shade[area][..., None]
        np.copyto(self.pixels[area], paint, where=inside[..., None])
        np.copyto(self.label[area], np.uint8(class_id), where=inside)

    def name(self, shape: Shape, class_id: int) -> None:
        """Label what lies in `shape`, as it looks."""
        if found := self._inside(shape):
            np.copyto(self.label[found[0]], np.uint8(class_id), where=found[1])

    def tint(self, shape: Shape, colour: FloatArray | float, share: float) -> None:
        """Mix a colour into what lies in `shape`: a shadow, glass, mist."""
        if found := self._inside(shape):
            area, inside = found
            mixed = self.pixels[area] * (1 - share) + np.asarray(colour, np.float32) * share
            np.copyto(self.pixels[area], mixed, where=inside[..., None])

    def _inside(self, shape: Shape) -> tuple[tuple[slice, slice], NDArray[np.bool_]] | None:
        """The box around a shape and what of it lies inside; None where nothing does."""
        drawing = Image.new("1", (self.width, self.height))
        shape(ImageDraw.Draw(drawing))
        box = drawing.getbbox()
        if box is None:
            return None
        left, top, right, bottom = box
        return np.s_[top:bottom, left:right], np.asarray(drawing.crop(box), dtype=bool)


def polygon(*points: Point) -> Shape:
    """Filled polygon."""
    return lambda draw: draw.polygon(points, fill=1)


def rectangle(left: float, top: float, right: float, bottom: float) -> Shape:
    """Filled rectangle, edges included."""
    return lambda draw: draw.rectangle((left, top, max(left, right), max(top, bottom)), fill=1)


def ellipse(centre_x: float, centre_y: float, radius_x: float, radius_y: float) -> Shape:
    """Filled ellipse."""
    box = (centre_x - radius_x, centre_y - radius_y, centre_x + radius_x, centre_y + radius_y)
    return lambda draw: draw.ellipse(box, fill=1)


def polyline(points: Sequence[Point], width: int) -> Shape:
    """A line of `width` pixels through `points`."""
    return lambda draw: draw.line(list(points), fill=1, width=width, joint="curve")
