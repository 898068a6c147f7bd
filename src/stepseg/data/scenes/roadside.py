"""What stands along the road of a drive: facades, trees, fences, poles, lights and signs."""

from __future__ import annotations

import numpy as np

from stepseg.data.scenes.camera import Camera, Plane, Texture, World
from stepseg.data.scenes.canvas import Colour, Shape, ellipse, polygon, polyline, rectangle
from stepseg.data.scenes.textures import FloatArray, smooth_noise
from stepseg.data.sets.camvid import BUILDING, FENCE, POLE, SIGN, TREE

_WALLS: tuple[Colour, ...] = (
    (150, 95, 75), (175, 150, 115), (120, 105, 95), (200, 195, 185), (95, 90, 92), (165, 120, 90),
)  # fmt: skip
_SHOPS: tuple[Colour, ...] = (
    (40, 70, 50), (130, 40, 40), (50, 60, 110), (190, 170, 60), (60, 55, 55),
)  # fmt: skip
_SLATES: tuple[Colour, ...] = ((85, 70, 68), (70, 70, 76))
_LEAVES: tuple[Colour, ...] = ((62, 80, 42), (85, 100, 50), (50, 62, 40), (105, 95, 60))
_BARK: tuple[Colour, ...] = ((62, 52, 45), (80, 70, 62), (45, 40, 38))
_METALS: tuple[Colour, ...] = ((70, 70, 72), (120, 122, 120), (45, 48, 46), (150, 150, 148))
_SIGNS: tuple[Colour, ...] = ((190, 35, 40), (40, 70, 150), (225, 225, 220), (215, 180, 60))


def paint_facade(camera: Camera, x: float, near: float, far: float, high: float) -> None:
    """A house along the road, with storeys of windows, perhaps a shop and a pitched roof."""
    canvas, rng, out = camera.canvas, camera.canvas.rng, np.sign(x)
    colour = canvas.colour(_WALLS) + rng.uniform(-30, 25)
    wall = camera.side(x, (0, high), (near, far))
    canvas.paint(wall, BUILDING, colour, camera.wall(x, _windows(rng, high)))
    if rng.random() < 0.45:
        ridge, inner = high + rng.uniform(1.5, 3.5), x + out * 4
        roof = ((x, high, near), (x, high, far), (inner, ridge, far), (inner, ridge, near))
        canvas.paint(camera.face(*roof), BUILDING, canvas.colour(_SLATES))
    if rng.random() < 0.4:  # a shop front, its name above
        front, pane = (camera.side(x, y, (near, far)) for y in ((0.3, 3.2), (0.5, 2.5)))
        glass = _windows(rng, 2.5, pitch=rng.uniform(1.5, 3), storey=2.6)
        canvas.paint(front, BUILDING, canvas.colour(_SHOPS))
        canvas.paint(pane, BUILDING, canvas.colour(_SHOPS) * 0.6, camera.wall(x, glass))
    end = camera.upright((x, x + out * 12), (0, high), near)  # faces the camera
    canvas.paint(end, BUILDING, colour * rng.uniform(0.55, 0.95))


def paint_front(camera: Camera, z: float, left: float, right: float, high: float) -> None:
    """A house across the road."""
    canvas = camera.canvas
    shade = camera.front(z, _windows(canvas.rng, high))
    wall = camera.upright((left, right), (0, high), z)
    canvas.paint(wall, BUILDING, canvas.colour(_WALLS), shade)


def _windows(
    rng: np.random.Generator, high: float, pitch: float | None = None, storey: float | None = None
) -> Texture:
    """Rows of panes, some of them bright, with courses of bricks between."""
    pitch, storey = pitch or rng.uniform(1.8, 4), storey or rng.uniform(2.7, 3.6)
    wide, tall = rng.uniform(0.3, 0.8), rng.uniform(0.35, 0.7)
    dark, courses = rng.uniform(25, 75) * (1 if rng.random() < 0.85 else -1), rng.uniform(0, 14)
    phase, seed = rng.uniform(0, 9), rng.uniform(10, 99)

    def texture(a: Plane, y: Plane) -> Plane:
        column, row = (a + phase) / pitch, y / storey
        inside = (np.abs(column % 1 - 0.5) < wide / 2) & (np.abs(row % 1 - 0.55) < tall / 2)
        some = np.sin(np.floor(column) * seed + np.floor(row) * 7.7)  # each pane its own light
        stone = np.sin(a * 9) * np.sin(y * 25) * courses
        return np.where(inside & (y < high - 0.6), -dark + 22 * some, stone)

    return texture


def paint_tree(camera: Camera, x: float, z: float) -> None:
    """A trunk and either leaves or bare branches before the sky."""
    canvas, rng = camera.canvas, camera.canvas.rng
    high, spread, bark = rng.uniform(4, 11), rng.uniform(1.2, 3.2), canvas.colour(_BARK)
    foot, fork = camera.project(x, 0, z), camera.project(x, high * 0.35, z)
    crown = []
    for _ in range(9):
        middle = camera.project(x + rng.normal(0, spread * 0.4), high * rng.uniform(0.45, 0.95), z)
        radii = (camera.size(spread * rng.uniform(0.35, 0.7), z) for _ in range(2))
        crown.append(ellipse(*middle, *radii))
    if rng.random() < 0.6:
        leaves, shade = canvas.colour(_LEAVES), _leaves(camera, z)
        for part in crown:
            canvas.paint(part, TREE, leaves + rng.uniform(-12, 12), shade)
    else:
        for part in crown:
            canvas.tint(part, bark, rng.uniform(0.1, 0.3))
            canvas.name(part, TREE)
        for _ in range(26):
            tip = camera.project(x + rng.normal(0, spread * 0.6), high * rng.uniform(0.45, 1), z)
            bend = ((fork[0] + tip[0]) / 2 + rng.normal(0, 3), (fork[1] + tip[1]) / 2)
            canvas.paint(polyline([fork, bend, tip], camera.size(0.06, z)), TREE, bark)
    trunk = polyline([foot, fork], camera.size(rng.uniform(0.15, 0.4), z))
    canvas.paint(trunk, TREE, bark)


def paint_hedge(camera: Camera, x: float, near: float, far: float, high: float) -> None:
    """A wall of leaves along the road."""
    canvas = camera.canvas
    tops: list[World] = [
        (x, high * canvas.rng.uniform(0.88, 1.06), float(z))
        for z in np.geomspace(near, far, 24)  # evenly spread in the picture
    ]
    hedge = camera.face((x, 0, near), *tops, (x, 0, far))
    canvas.paint(hedge, TREE, canvas.colour(_LEAVES), _leaves(camera, near * 2))


def _leaves(camera: Camera, z: float) -> FloatArray:
    canvas = camera.canvas
    blob = min(camera.size(0.35, z), 24)
    noise = smooth_noise(canvas.rng, canvas.height, canvas.width, blob, blob)
    return (noise * 26 + canvas.rng.normal(0, 9, noise.shape)).astype(np.float32)


def paint_fence(camera: Camera, x: float, near: float, far: float) -> None:
    """Railings that one sees through, or a low wall; either is a fence from end to end."""
    canvas, rng = camera.canvas, camera.canvas.rng
    high, colour = rng.uniform(0.8, 1.5), canvas.colour(_METALS)
    outline = camera.side(x, (0, high), (near, far))
    if rng.random() < 0.3:
        bricks = camera.wall(x, lambda z, y: 14 * np.sin(y * 40) * (np.sin(z * 18) > -0.8))
        canvas.paint(outline, FENCE, canvas.colour(_WALLS), bricks)
        return
    canvas.name(outline, FENCE)
    for z in np.arange(near, far, rng.uniform(0.15, 0.5)):
        bar = [camera.project(x, 0, z), camera.project(x, high, z)]
        canvas.paint(polyline(bar, camera.size(0.03, z)), FENCE, colour)
    for y in (0.12, high):
        rail = [camera.project(x, y, near), camera.project(x, y, far)]
        canvas.paint(polyline(rail, camera.size(0.05, near * 2)), FENCE, colour)


def paint_pole(camera: Camera, x: float, z: float) -> None:
    """A lamp, a traffic light or a sign on its pole."""
    canvas, rng = camera.canvas, camera.canvas.rng
    kind = str(rng.choice(("lamp", "light", "sign", "post"), p=(0.35, 0.25, 0.3, 0.1)))
    heights = {"lamp": (5.0, 9.0), "light": (2.4, 3.6), "sign": (2.2, 3.4), "post": (0.9, 1.2)}
    high, thick = rng.uniform(*heights[kind]), camera.size(rng.uniform(0.09, 0.18), z)
    metal = canvas.colour(_METALS)
    foot, top = camera.project(x, 0, z), camera.project(x, high, z)
    canvas.paint(polyline([foot, top], thick), POLE, metal)
    if kind == "lamp":
        arm = camera.project(x - np.sign(x) * rng.uniform(0, 1.8), high + 0.2, z)
        canvas.paint(polyline([top, arm], max(1, thick // 2)), POLE, metal)
    elif kind == "light":
        _paint_light(camera, x, high, z)
    elif kind == "sign":
        for number in range(int(rng.integers(1, 3))):
            _paint_plate(camera, x, high - 0.85 * number, z)


def _paint_light(camera: Camera, x: float, top: float, z: float) -> None:
    canvas, rng = camera.canvas, camera.canvas.rng
    box = camera.upright((x - 0.2, x + 0.2), (top - 1, top), z)
    canvas.paint(box, SIGN, np.full(3, rng.uniform(15, 45), np.float32))
    colour, drop = ((230, 50, 40), 0.18) if rng.random() < 0.5 else ((60, 220, 150), 0.78)
    lamp = ellipse(*camera.project(x, top - drop, z), camera.size(0.1, z), camera.size(0.1, z))
    if rng.random() < 0.8:
        canvas.paint(lamp, SIGN, np.array(colour, np.float32))


def _paint_plate(camera: Camera, x: float, y: float, z: float) -> None:
    canvas, rng = camera.canvas, camera.canvas.rng
    half, kind = rng.uniform(0.28, 0.6), int(rng.integers(3))
    inner = canvas.colour(((235, 235, 230), (30, 30, 35)))
    for size, paint in ((half, canvas.colour(_SIGNS)), (half * 0.65, inner)):
        place = camera.project(x, y - half, z)
        canvas.paint(_plate(kind, *place, camera.size(size, z)), SIGN, paint)


def _plate(kind: int, x: float, y: float, radius: int) -> Shape:
    if kind == 0:
        return ellipse(x, y, radius, radius)
    if kind == 1:
        return polygon((x - radius, y + radius), (x + radius, y + radius), (x, y - radius))
    return rectangle(x - radius, y - 0.7 * radius, x + radius, y + 0.7 * radius)
