"""A pinhole camera over a flat road: metres of the world to pixels of the canvas, and back.

x points to the right, y up from the road, z ahead, all in metres from the foot of the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stepseg.data.scenes.canvas import Canvas, Point, Shape, polygon
from stepseg.data.scenes.textures import FloatArray

NEAR = 1.2
"""Nothing nearer is drawn, in metres."""
World = tuple[float, float, float]
Plane = NDArray[np.floating]
Texture = Callable[[Plane, Plane], Plane]
"""Brightness offsets by two coordinates of a plane, in metres."""


@dataclass(frozen=True)
class Camera:
    """Where the camera looks."""

    canvas: Canvas
    height: float
    focal: float
    """In pixels."""
    centre: Point
    """The vanishing point of the road, in pixels."""

    @classmethod
    def draw(cls, canvas: Canvas) -> Camera:
        """One as behind a windscreen."""
        rng, width, height = canvas.rng, canvas.width, canvas.height
        centre = (width * rng.uniform(0.3, 0.7), height * rng.uniform(0.4, 0.56))
        return cls(canvas, rng.uniform(1.1, 1.8), width * rng.uniform(0.75, 1.15), centre)

    def project(self, x: float, y: float, z: float) -> Point:
        """The pixel of a point."""
        z = max(z, NEAR)
        scale = self.focal / z
        return self.centre[0] + scale * x, self.centre[1] - scale * (y - self.height)

    def size(self, metres: float, z: float) -> int:
        """So many pixels at a distance, at least one."""
        return max(1, round(self.focal * metres / max(z, NEAR)))

    def face(self, *corners: World) -> Shape:
        """A plane polygon of the world."""
        return polygon(*(self.project(*corner) for corner in corners))

    def floor(self, x: tuple[float, float], z: tuple[float, float]) -> Shape:
        """A rectangle on the road's plane."""
        return self.face((x[0], 0, z[0]), (x[0], 0, z[1]), (x[1], 0, z[1]), (x[1], 0, z[0]))

    def side(self, x: float, y: tuple[float, float], z: tuple[float, float]) -> Shape:
        """An upright rectangle along the road."""
        return self.face((x, y[0], z[0]), (x, y[1], z[0]), (x, y[1], z[1]), (x, y[0], z[1]))

    def upright(self, x: tuple[float, float], y: tuple[float, float], z: float) -> Shape:
        """An upright rectangle across the road."""
        return self.face((x[0], y[0], z), (x[0], y[1], z), (x[1], y[1], z), (x[1], y[0], z))

    def ground(self, texture: Texture) -> FloatArray:
        """A texture by (x, z) on the road's plane, ``[H, W]``; 0 above the horizon."""
        rows, columns = self._pixels()
        below = np.maximum(rows - self.centre[1], 0.5)
        z = np.broadcast_to(self.focal * self.height / below, (rows.size, columns.size))
        x = (columns - self.centre[0]) * z / self.focal
        return np.where(rows > self.centre[1], texture(x, z), 0).astype(np.float32)

    def wall(self, x: float, texture: Texture) -> FloatArray:
        """A texture by (z, y) on the plane at `x` along the road, ``[H, W]``."""
        rows, columns = self._pixels()
        aside = columns - self.centre[0]
        z = self.focal * x / np.where(np.abs(aside) < 0.5, 0.5 * np.sign(x), aside)
        z = np.broadcast_to(np.clip(z, NEAR, 400), (rows.size, columns.size))
        y = self.height - (rows - self.centre[1]) * z / self.focal
        return texture(z, y).astype(np.float32)

    def front(self, z: float, texture: Texture) -> FloatArray:
        """A texture by (x, y) on the plane across the road at `z`, ``[H, W]``."""
        rows, columns = self._pixels()
        x = np.broadcast_to((columns - self.centre[0]) * z / self.focal, (rows.size, columns.size))
        y = np.broadcast_to(self.height - (rows - self.centre[1]) * z / self.focal, x.shape)
        return texture(x, y).astype(np.float32)

    def _pixels(self) -> tuple[Plane, Plane]:
        rows = np.arange(self.canvas.height, dtype=np.float32)[:, None]
        return rows, np.arange(self.canvas.width, dtype=np.float32)[None, :]
