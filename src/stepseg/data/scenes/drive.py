"""Draws one view from a car with its label map: the classes of CamVid, and a like arrangement.

A scene is a function of its seed alone. A camera at a driver's height sees a road with lanes,
pavements, facades, trees, parked and moving cars, people, poles and fences, painted from far to
near in perspective; then the light: from dusk to a white sky, with shadows where the sun shines.
Meant to be trained on before photographs, where there are few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stepseg.data.scenes.camera import NEAR, Camera
from stepseg.data.scenes.canvas import Canvas, Colour, ellipse
from stepseg.data.scenes.roadside import (
    paint_facade,
    paint_fence,
    paint_front,
    paint_hedge,
    paint_pole,
    paint_tree,
)
from stepseg.data.scenes.textures import FloatArray, smooth_noise
from stepseg.data.scenes.traffic import paint_bicyclist, paint_car, paint_pedestrian
from stepseg.data.sets.camvid import PAVEMENT, ROAD, SKY, TREE, VOID

GENERATOR_VERSION = 1
"""Raise it with every change of the drives: caches of older ones are then not used."""

_SKIES: tuple[tuple[Colour, Colour], ...] = (  # (top, horizon)
    ((110, 150, 205), (205, 222, 238)),
    ((250, 250, 252), (252, 252, 252)),
    ((150, 158, 168), (205, 208, 210)),
    ((225, 230, 236), (245, 245, 244)),
)
_ROADS: tuple[Colour, ...] = ((100, 100, 104), (120, 118, 116), (82, 83, 88))
_STONES: tuple[Colour, ...] = ((135, 130, 124), (150, 142, 130), (118, 115, 113))
_WOODS: tuple[Colour, ...] = ((70, 82, 55), (90, 88, 72))
FAR = 130.0
"""How far the road goes, in metres."""
Thing = tuple[float, Callable[[], None]]
"""How far it is, and its painter."""


@dataclass(frozen=True)
class Street:
    """What runs along the road, in metres from the camera; left is negative."""

    left: float
    right: float
    left_wall: float
    right_wall: float
    end: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Street:
        """A lane or a square, with pavements as wide as they come."""
        left, right = -rng.uniform(2, 8.5), rng.uniform(1.8, 5)
        walls = (left - rng.uniform(1.5, 7), right + rng.uniform(1.5, 7))
        return cls(left, right, *walls, rng.uniform(45, FAR))

    def beside(self, side: int) -> tuple[float, float]:
        """Kerb and wall of a side: -1 left, 1 right."""
        return (self.left, self.left_wall) if side < 0 else (self.right, self.right_wall)


def draw_drive(
    height: int, width: int, seed: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """RGB image uint8 [H, W, 3] and label ids uint8 [H, W] of the view with this seed."""
    canvas = Canvas(height, width, np.random.default_rng(seed))
    camera, street = Camera.draw(canvas), Street.draw(canvas.rng)
    _paint_sky(canvas)
    _paint_ground(camera, street)
    _paint_end(camera, street)
    if canvas.rng.random() < 0.4:
        _cast_shadows(camera, street)
    things = [thing for side in (-1, 1) for thing in _beside(camera, street, side)]
    things += _on_the_road(camera, street)
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint()
    if canvas.rng.random() < 0.3:  # the bonnet of the own car
        middle = width * canvas.rng.uniform(0.4, 0.7)
        bonnet = ellipse(middle, height * 1.06, width * 0.6, height * 0.11)
        canvas.paint(bonnet, VOID, canvas.colour(_ROADS) * 0.6)
    return _expose(canvas), canvas.label


def _paint_sky(canvas: Canvas) -> None:
    rng = canvas.rng
    top, low = (np.array(c, np.float32) for c in _SKIES[rng.integers(len(_SKIES))])
    share = np.linspace(0, 1, canvas.height, dtype=np.float32)[:, None, None]
    clouds = smooth_noise(rng, canvas.height, canvas.width, canvas.length(50), canvas.length(140))
    canvas.pixels[:] = top + (low - top) * share + clouds[..., None] * rng.uniform(0, 22)
    canvas.label[:] = SKY


def _paint_ground(camera: Camera, street: Street) -> None:
    """Everything is pavement, and the road lies on it."""
    canvas, rng = camera.canvas, camera.canvas.rng
    grain = smooth_noise(rng, canvas.height, canvas.width, 2, 3) * 7
    joints, phase = rng.uniform(0, 14), rng.uniform(0, 6)
    flags = camera.ground(lambda x, z: -joints * ((x % 0.9 < 0.06) | (z % 0.9 < 0.06)))
    plane = camera.floor((-90, 90), (NEAR, 400))
    canvas.paint(plane, PAVEMENT, canvas.colour(_STONES, 9), flags + grain)
    worn = camera.ground(lambda x, z: 8 * np.sin(x * 1.3 + phase) * np.sin(z * 0.4)) + grain
    paint = canvas.colour(_ROADS, 7)
    canvas.paint(camera.floor((street.left, street.right), (NEAR, FAR)), ROAD, paint, worn)
    if rng.random() < 0.45:  # a side road
        near, side = rng.uniform(6, 35), int(rng.choice((-1, 1)))
        kerb, _ = street.beside(side)
        across = camera.floor((kerb, kerb + side * 40), (near, near + rng.uniform(4, 9)))
        canvas.paint(across, ROAD, paint, worn)
    for x in (street.left, street.right):
        stones = camera.side(x, (0, 0.12), (NEAR, FAR))
        canvas.paint(stones, PAVEMENT, canvas.colour(_STONES, 9) * 1.1)
    _paint_marks(camera, street)


def _paint_marks(camera: Camera, street: Street) -> None:
    """Dashes between lanes, lines at the kerb, a crossing; all of them road."""
    canvas, rng = camera.canvas, camera.canvas.rng
    white = canvas.colour(((215, 215, 210), (190, 190, 185)))
    yellow = canvas.colour(((200, 170, 70),))

    def mark(x: float, half: float, near: float, far: float, colour: FloatArray = white) -> None:
        canvas.paint(camera.floor((x - half, x + half), (near, far)), ROAD, colour)

    if rng.random() < 0.75:
        length, gap = rng.uniform(1, 4), rng.uniform(1.5, 6)
        for near in np.arange(rng.uniform(0, 3) + NEAR, 70, length + gap):
            mark((street.left + street.right) / 2, 0.07, near, near + length)
    for x in (street.left + 0.35, street.right - 0.35):
        if rng.random() < 0.5:
            mark(x, 0.05, NEAR, 80, yellow if rng.random() < 0.5 else white)
    if rng.random() < 0.15:
        near = rng.uniform(5, 25)
        for x in np.arange(street.left + 0.3, street.right, 1.0):
            mark(x, 0.25, near, near + 2.4)


def _paint_end(camera: Camera, street: Street) -> None:
    """What closes the view far ahead: houses, trees, or nothing."""
    canvas, rng = camera.canvas, camera.canvas.rng
    x = street.left_wall - 60
    while x < street.right_wall + 60:
        wide, z, kind = rng.uniform(8, 30), street.end + rng.uniform(5, 40), rng.random()
        if kind < 0.45:
            paint_front(camera, z, x, x + wide, rng.uniform(4, 14))
        elif kind < 0.8:
            high = rng.uniform(3, 9)
            edge = np.linspace(x, x + wide, 18)
            tops = [(float(a), high * rng.uniform(0.8, 1.1), z) for a in edge]
            crowns = camera.face((x, 0, z), *tops, (x + wide, 0, z))
            leaves = smooth_noise(rng, canvas.height, canvas.width, 3, 3) * 16
            canvas.paint(crowns, TREE, canvas.colour(_WOODS), leaves)
        x += wide * rng.uniform(0.6, 1.1)


def _cast_shadows(camera: Camera, street: Street) -> None:
    """Houses of one side darken the road along a ragged edge."""
    rng = camera.canvas.rng
    side = int(rng.choice((-1, 1)))
    _, wall = street.beside(side)
    reach = rng.uniform(0.2, 1.0) * (street.right_wall - street.left_wall)
    near = NEAR
    while near < street.end:
        far = near + rng.uniform(5, 25)
        edge = wall - side * reach * rng.uniform(0.6, 1.1)
        if rng.random() < 0.75:
            camera.canvas.tint(camera.floor((wall, edge), (near, far)), 30.0, 0.45)
        near = far


def _beside(camera: Camera, street: Street, side: int) -> list[Thing]:
    """Houses, railings, parked cars, poles, trees and pedestrians of one side."""
    rng = camera.canvas.rng
    kerb, wall = street.beside(side)
    things = _houses(camera, street, wall)

    def some(mean: float, near: float, far: float) -> list[float]:
        return [float(z) for z in rng.uniform(near, far, rng.poisson(mean))]

    if rng.random() < 0.4:
        near = rng.uniform(NEAR, 25)
        far = near + rng.uniform(4, 25)
        things.append((near, partial(paint_fence, camera, kerb + side * 0.4, near, far)))
    if rng.random() < 0.55:  # a row of parked cars
        for z in np.arange(rng.uniform(3, 25), rng.uniform(20, 90), rng.uniform(5, 8)):
            x = kerb - side * rng.uniform(1.0, 1.3)
            things.append((float(z), partial(paint_car, camera, x, float(z))))
    for z in some(3, 3, 36):
        things.append((z, partial(paint_pole, camera, kerb + side * rng.uniform(0.2, 1.2), z)))
    for z in some(1.5, 5, 60):
        things.append((z, partial(paint_tree, camera, wall + side * rng.uniform(-1, 3), z)))
    for z in some(1.5, 4, 40):
        x = kerb + (wall - kerb) * rng.uniform(-0.1, 0.9)
        things.append((z, partial(paint_pedestrian, camera, x, z)))
    return things


def _on_the_road(camera: Camera, street: Street) -> list[Thing]:
    rng = camera.canvas.rng
    things: list[Thing] = []
    for z in rng.uniform(5, 60, rng.poisson(1.6)):
        x = rng.uniform(street.left + 1, street.right - 0.9)
        things.append((float(z), partial(paint_car, camera, x, float(z))))
    for z in rng.uniform(3.5, 25, rng.poisson(0.7)):
        x = rng.uniform(street.left + 0.4, street.right - 0.3)
        things.append((float(z), partial(paint_bicyclist, camera, x, float(z))))
    return things


def _houses(camera: Camera, street: Street, wall: float) -> list[Thing]:
    """Facades along one side, with gaps for hedges and the sky."""
    rng = camera.canvas.rng
    things: list[Thing] = []
    near, built = NEAR, rng.uniform(0.25, 1.0)
    while near < street.end:
        far = near + rng.uniform(6, 22)
        if rng.random() < built:
            paint = partial(paint_facade, camera, wall, near, far, rng.uniform(5, 17))
            things.append((far + 0.5, paint))  # behind all that stands before it
        elif rng.random() < 0.7:
            high = rng.uniform(1.2, 8)
            things.append((far + 0.5, partial(paint_hedge, camera, wall, near, far, high)))
        near = far
    return things


def _expose(canvas: Canvas) -> NDArray[np.uint8]:
    """Light, contrast, colour cast and noise of the view, then levels as uint8 [H, W, 3]."""
    rng = canvas.rng
    dusk = rng.random() < 0.3
    gain = rng.uniform(0.28, 0.6) if dusk else rng.uniform(0.75, 1.2)
    cast = rng.uniform(0.94, 1.06, 3).astype(np.float32)
    levels = np.clip(canvas.pixels / 255, 0, 1) ** rng.uniform(0.85, 1.5) * 255 * gain
    if dusk:  # the sky stays brighter than what it lights
        levels = np.where((canvas.label == SKY)[..., None], levels * rng.uniform(1.2, 1.8), levels)
    noise = rng.normal(0, rng.uniform(1, 5), canvas.pixels.shape)
    return np.clip(levels * cast + noise, 0, 255).astype(np.uint8)
