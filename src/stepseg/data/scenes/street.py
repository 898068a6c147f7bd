"""Draws one street-like scene with its label map. A scene is a function of its seed alone.

Painted from far to near: sky, ground (road, vegetation, water), buildings and trees, then objects
in order of depth. Colours of the classes overlap and change with every scene (light, colour cast,
materials), so position, texture and shape matter as much as colour. Sizes are those of a
512-pixel image and scale with the image; the objects themselves are drawn in `objects.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stepseg.data.scenes.canvas import Canvas, Colour, Point, ellipse, polygon, rectangle
from stepseg.data.scenes.objects import paint_objects
from stepseg.data.scenes.textures import FloatArray, bricks, panes, pixel_noise, smooth_noise
from stepseg.data.sets.synthetic import BUILDING, ROAD, SKY, VEGETATION, WATER

GENERATOR_VERSION = 3
"""Raise it with every change of the scenes: caches of older scenes are then not used."""

_SKIES: tuple[tuple[Colour, Colour], ...] = (  # (top, horizon)
    ((85, 145, 220), (190, 215, 240)),
    ((160, 170, 182), (208, 212, 218)),
    ((125, 135, 190), (245, 190, 140)),
)
_WALLS: tuple[Colour, ...] = (
    (170, 85, 65),
    (190, 130, 85),
    (150, 100, 70),
    (195, 160, 115),
    (140, 110, 105),
)
_ROADS: tuple[Colour, ...] = ((92, 92, 97), (112, 110, 110), (74, 75, 82))
_PLANTS: tuple[Colour, ...] = ((75, 140, 50), (105, 145, 55), (55, 110, 50), (135, 150, 65))
_WATERS: tuple[Colour, ...] = ((40, 85, 150), (45, 105, 135), (60, 95, 165))


def draw_scene(
    height: int, width: int, seed: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """RGB image uint8 [H, W, 3] and training ids uint8 [H, W] of the scene with this seed."""
    canvas = Canvas(height, width, np.random.default_rng(seed))
    horizon = round(height * canvas.rng.uniform(0.38, 0.55))
    _paint_sky(canvas, horizon)
    road = _paint_ground(canvas, horizon)
    _paint_skyline(canvas, horizon)
    paint_objects(canvas, horizon, road)
    return _expose(canvas), canvas.label


def _paint_sky(canvas: Canvas, horizon: int) -> None:
    rng = canvas.rng
    top, bottom = (np.array(c, dtype=np.float32) for c in _SKIES[rng.integers(len(_SKIES))])
    top, bottom = (c + rng.uniform(-15, 15, 3).astype(np.float32) for c in (top, bottom))
    share = np.linspace(0, 1, horizon, dtype=np.float32)[:, None, None]
    clouds = smooth_noise(rng, horizon, canvas.width, canvas.length(70), canvas.length(170))
    canvas.pixels[:horizon] = top + (bottom - top) * share + clouds[..., None] * rng.uniform(0, 28)
    canvas.label[:] = SKY


def _paint_ground(canvas: Canvas, horizon: int) -> tuple[Point, Point]:
    """Fill below the horizon; returns the road's (left, right) x there and at the bottom."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    kind = rng.random()
    if kind < 0.3:  # a square or a meadow: one surface from edge to edge
        surface = ROAD if kind < 0.18 else VEGETATION
        area = rectangle(0, horizon, width, height)
        canvas.paint(area, surface, *_ground_material(canvas, surface, horizon))
        return (0, width), (0, width)
    vanish = width * rng.uniform(0.25, 0.75)
    half_far = canvas.length(8, 45)
    far = (vanish - half_far, vanish + half_far)
    near = (width * rng.uniform(-0.5, 0.25), width * rng.uniform(0.75, 1.5))
    _paint_sides(canvas, horizon, vanish)
    road = polygon((far[0], horizon), (far[1], horizon), (near[1], height), (near[0], height))
    canvas.paint(road, ROAD, *_ground_material(canvas, ROAD, horizon))
    _paint_lane_marks(canvas, horizon, vanish, sum(near) / 2)
    return far, near


def _paint_sides(canvas: Canvas, horizon: int, vanish: float) -> None:
    """Left and right of the road: vegetation, and vegetation or water."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    classes = rng.permutation([VEGETATION, VEGETATION if rng.random() < 0.2 else WATER])
    split = vanish + rng.uniform(-0.2, 0.2) * width
    left = polygon((0, horizon), (vanish, horizon), (split, height), (0, height))
    right = polygon((vanish, horizon), (width, horizon), (width, height), (split, height))
    for class_id, area in zip(classes.tolist(), (left, right), strict=True):
        canvas.paint(area, class_id, *_ground_material(canvas, class_id, horizon))


def _ground_material(canvas: Canvas, class_id: int, horizon: int) -> tuple[FloatArray, FloatArray]:
    """Base colour [3] and brightness map [H, W]; the map is zero above the horizon."""
    rng, height, width = canvas.rng, canvas.height, canvas.width
    rows = height - horizon
    ramp = np.linspace(rng.uniform(-25, 15), rng.uniform(-15, 25), rows, dtype=np.float32)[:, None]
    large = smooth_noise(rng, rows, width, canvas.length(60), canvas.length(140)) * 14
    if class_id == VEGETATION:
        colour = canvas.colour(_PLANTS)
        fine = smooth_noise(rng, rows, width, canvas.length(7), canvas.length(3)) * 34
    elif class_id == WATER:
        colour = canvas.colour(_WATERS)
        fine = smooth_noise(rng, rows, width, canvas.length(4), canvas.length(30)) * 26
    else:
        colour = canvas.colour(_ROADS)
        fine = pixel_noise(rng, rows, width) * 9
    shade = np.zeros((height, width), dtype=np.float32)
    shade[horizon:] = ramp + large + fine
    return colour, shade


def _paint_lane_marks(canvas: Canvas, horizon: int, far_x: float, near_x: float) -> None:
    """Dashes along the middle of the road; they are part of the road."""
    if canvas.rng.random() < 0.3:
        return
    colour = canvas.colour(((225, 225, 220), (220, 190, 90)))
    depth = canvas.height - horizon
    for near in np.arange(0.12, 1.0, 0.22):
        ends = []
        for share in (near, near + 0.1):
            x = far_x + (near_x - far_x) * share
            half = canvas.length(6) * share
            ends.append(((x - half, horizon + depth * share), (x + half, horizon + depth * share)))
        (a, b), (c, d) = ends
        canvas.paint(polygon(a, b, d, c), ROAD, colour)


def _paint_skyline(canvas: Canvas, horizon: int) -> None:
    """Buildings and trees that stand at the horizon."""
    rng = canvas.rng
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        _paint_building(canvas, horizon)
    for _ in range(int(rng.random() < 0.3)):
        radius_x, radius_y = canvas.length(40, 110), canvas.length(30, 80)
        centre_x = canvas.width * rng.uniform(0, 1)
        base = horizon + canvas.length(2, 25)
        fine = smooth_noise(
            rng, canvas.height, canvas.width, canvas.length(8), canvas.length(8)
        ) * np.float32(34)
        colour = canvas.colour(_PLANTS) - 12
        shape = ellipse(centre_x, base - radius_y, radius_x, radius_y)
        canvas.paint(shape, VEGETATION, colour, fine)


def _paint_building(canvas: Canvas, horizon: int) -> None:
    rng = canvas.rng
    wide = canvas.length(150, 340)
    left = int(canvas.width * rng.uniform(-0.2, 0.95))
    top, bottom = int(horizon * rng.uniform(0.1, 0.7)), horizon + canvas.length(4, 30)
    left, right = max(left, 0), min(left + wide, canvas.width)
    shade = np.zeros((canvas.height, canvas.width), dtype=np.float32)
    rows, columns = bottom - top + 1, max(right - left, 1)
    kind = rng.integers(3)
    if kind == 0:
        wall = bricks(rows, columns, canvas.length(9, 16), canvas.length(22, 36)) * rng.uniform(
            18, 40
        )
    else:
        pitch = canvas.length(34, 60)
        contrast = rng.uniform(30, 65) * (1 if rng.random() < 0.3 else -1)
        wall = panes(rows, columns, pitch, round(pitch * rng.uniform(0.7, 1.3)), 0.5) * contrast
    light = np.linspace(rng.uniform(-20, 20), rng.uniform(-20, 20), columns, dtype=np.float32)
    shade[top : bottom + 1, left : left + columns] = wall + light
    canvas.paint(rectangle(left, top, right, bottom), BUILDING, canvas.colour(_WALLS), shade)


def _expose(canvas: Canvas) -> NDArray[np.uint8]:
    """Light, colour cast and sensor noise of the scene, then levels as uint8 [H, W, 3]."""
    rng = canvas.rng
    gain = rng.uniform(0.8, 1.08) * rng.uniform(0.96, 1.04, 3).astype(np.float32)
    slope = rng.uniform(-0.14, 0.14)
    across = 1 + np.linspace(-slope, slope, canvas.width, dtype=np.float32)[:, None]
    noise = rng.integers(-9, 10, canvas.pixels.shape, dtype=np.int8)
    exposed = canvas.pixels * (gain.astype(np.float32) * across) + noise
    return np.clip(exposed, 0, 255).astype(np.uint8)
