"""Procedural noise and patterns for the generated scenes, all float32 and roughly in -1..1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.float32]


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cell_h: int, cell_w: int
) -> FloatArray:
    """Noise whose blobs are about `cell_h` x `cell_w` pixels, [height, width]."""
    rows, columns = max(2, height // cell_h + 2), max(2, width // cell_w + 2)
    coarse = rng.random((rows, columns), dtype=np.float32) * 2 - 1
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32)


def pixel_noise(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Independent uniform noise per pixel, [height, width]."""
    return rng.random((height, width), dtype=np.float32) * 2 - 1


def bricks(height: int, width: int, brick_h: int, brick_w: int) -> FloatArray:
    """Courses of bricks: 0 on bricks, -1 in the joints; every second course is shifted by half."""
    rows = np.arange(height)[:, None]
    columns = np.arange(width)[None, :] + (rows // brick_h % 2) * (brick_w // 2)
    joint = max(1, brick_h // 6)
    in_joint = (rows % brick_h < joint) | (columns % brick_w < joint)
    return -in_joint.astype(np.float32)


def panes(height: int, width: int, pitch_h: int, pitch_w: int, fill: float) -> FloatArray:
    """A grid of window panes: 1 on panes, 0 between; `fill` is the pane's share per axis."""
    rows = (np.arange(height) % pitch_h) / pitch_h
    columns = (np.arange(width) % pitch_w) / pitch_w
    edge = (1 - fill) / 2
    row_in = (rows > edge) & (rows < 1 - edge)
    column_in = (columns > edge) & (columns < 1 - edge)
    return np.outer(row_in, column_in).astype(np.float32)
