"""Who is on the road of a drive: cars, vans and buses, pedestrians, bicyclists."""

from __future__ import annotations

import numpy as np

from stepseg.data.scenes.camera import Camera, World
from stepseg.data.scenes.canvas import Colour, Shape, ellipse, polyline
from stepseg.data.scenes.textures import FloatArray
from stepseg.data.sets.camvid import BICYCLIST, CAR, PEDESTRIAN

_PAINTS: tuple[Colour, ...] = (
    (175, 178, 182), (45, 48, 55), (150, 30, 35), (40, 60, 110), (215, 215, 212), (60, 80, 70),
    (110, 112, 118), (20, 22, 26),
)  # fmt: skip
_CLOTHES: tuple[Colour, ...] = (
    (35, 38, 50), (60, 50, 45), (90, 90, 95), (130, 40, 45), (45, 60, 100), (180, 175, 165),
    (190, 210, 60),
)  # fmt: skip
_SKIN: tuple[Colour, ...] = ((215, 170, 145), (170, 125, 100), (110, 80, 65), (40, 32, 28))
_SIZES = {"car": (1.75, 4.2, 1.48), "van": (1.95, 5.2, 2.2), "bus": (2.5, 10.0, 3.1)}
"""Width, length and height in metres."""


def paint_car(camera: Camera, x: float, z: float) -> None:
    """A box of body and cabin along the road, seen from behind or before and from one side."""
    canvas, rng = camera.canvas, camera.canvas.rng
    kind = str(rng.choice((*_SIZES,), p=(0.8, 0.15, 0.05)))
    wide, long, high = (size * rng.uniform(0.94, 1.07) for size in _SIZES[kind])
    left, right, end = x - wide / 2, x + wide / 2, z + long
    is_car = kind == "car"
    waist, tuck = high * (0.58 if is_car else 0.45), 0.16 if is_car else 0.03
    front, back = (z + 0.5, end - 1.3) if is_car else (z + 0.1, end - 0.2)  # of the roof
    paint, glass = canvas.colour(_PAINTS, 12), canvas.colour(((35, 42, 50), (85, 95, 105)), 10)
    canvas.tint(camera.floor((left - 0.1, right + 0.1), (z - 0.15, end)), 12.0, 0.7)  # its shadow
    side, inner = (right, right - tuck) if x < 0 else (left, left + tuck)
    sunny = rng.uniform(0.6, 1.1)
    canvas.paint(camera.side(side, (0.28, waist), (z, end)), CAR, paint * sunny)
    for rim, colour in ((0.0, paint * sunny), (0.3, glass)):
        cabin: list[World] = [
            (side, waist + rim / 8, z + 0.05 + rim), (inner, high - rim / 3, front + rim / 2),
            (inner, high - rim / 3, back - rim / 2), (side, waist + rim / 8, end - 0.6 - rim),
        ]  # fmt: skip
        canvas.paint(camera.face(*cabin), CAR, colour)
    for wheel in (z + 0.75, end - 0.8):
        radius, place = camera.size(0.31, wheel), camera.project(side, 0.31, wheel)
        across = max(1, round(radius * min(1.0, abs(side) / wheel * 1.5)))
        canvas.paint(ellipse(*place, across, radius), CAR, np.full(3, 22, np.float32))
    edges = ((left + tuck, front), (right - tuck, front), (right - tuck, back), (left + tuck, back))
    canvas.paint(camera.face(*((a, high, b) for a, b in edges)), CAR, paint * 1.08)
    _paint_end(camera, (left, right, z, front), (waist, high, tuck), paint, glass)


def _paint_end(
    camera: Camera,
    place: tuple[float, float, float, float],
    shape: tuple[float, float, float],
    paint: FloatArray,
    glass: FloatArray,
) -> None:
    """The end of a car that faces the camera: window, lights, number plate."""
    canvas, rng = camera.canvas, camera.canvas.rng
    (left, right, z, front), (waist, high, tuck) = place, shape
    for rim, colour in ((0.0, paint * 0.9), (0.1, glass)):
        upper: list[World] = [
            (left + rim, waist + rim / 3, z), (left + tuck + rim, high - rim, front),
            (right - tuck - rim, high - rim, front), (right - rim, waist + rim / 3, z),
        ]  # fmt: skip
        canvas.paint(camera.face(*upper), CAR, colour)
    for top, colour in ((waist, paint * rng.uniform(0.75, 1.0)), (0.45, paint * 0.5)):
        canvas.paint(camera.upright((left, right), (0.25, top), z), CAR, colour)
    lights: Colour = (190, 30, 30) if rng.random() < 0.6 else (225, 225, 205)
    for x in (left + 0.18, right - 0.18):
        radius = camera.size(0.11, z)
        lamp = ellipse(*camera.project(x, waist - 0.14, z), radius, radius)
        canvas.paint(lamp, CAR, np.array(lights, np.float32))
    middle = (left + right) / 2
    plate = camera.upright((middle - 0.26, middle + 0.26), (0.48, 0.6), z)
    canvas.paint(plate, CAR, canvas.colour(((230, 200, 60), (230, 230, 225)), 8))


def paint_pedestrian(camera: Camera, x: float, z: float) -> None:
    """Somebody who stands or walks."""
    _paint_body(camera, (x, 0, z), camera.canvas.rng.uniform(1.55, 1.9), PEDESTRIAN)


def paint_bicyclist(camera: Camera, x: float, z: float) -> None:
    """Somebody on a bicycle; both are one class."""
    canvas, rng = camera.canvas, camera.canvas.rng
    black, turn = np.full(3, 28, np.float32), rng.uniform(0.05, 0.9)
    high = camera.size(0.34, z)
    wide = max(1, round(high * max(turn, 0.12)))
    for offset in (-0.5, 0.5):
        place = camera.project(x + offset * turn, 0.34, z + offset * (1 - turn))
        wheel = ellipse(*place, wide, high)
        canvas.name(wheel, BICYCLIST)
        canvas.tint(wheel, 40.0, 0.35)
        rim = [
            (place[0] + wide * float(np.cos(a)), place[1] + high * float(np.sin(a)))
            for a in np.linspace(0, 2 * np.pi, 15)
        ]
        canvas.paint(polyline(rim, camera.size(0.05, z)), BICYCLIST, black)
    bends = ((-0.5 * turn, 0.35), (0.0, 0.85), (0.5 * turn, 0.4))
    frame = polyline([camera.project(x + a, b, z) for a, b in bends], camera.size(0.06, z))
    canvas.paint(frame, BICYCLIST, canvas.colour(_CLOTHES))
    _paint_body(camera, (x, 0.45, z), rng.uniform(1.25, 1.4), BICYCLIST)


def _paint_body(camera: Camera, foot: World, tall: float, kind: int) -> None:
    canvas, rng = camera.canvas, camera.canvas.rng
    x, y, z = foot
    shirt, trousers = canvas.colour(_CLOTHES), canvas.colour(_CLOTHES) * 0.8
    stride, hip, neck = rng.uniform(0, 0.28), y + tall * 0.5, y + tall * 0.84

    def limb(a: tuple[float, float], b: tuple[float, float], thick: float) -> Shape:
        return polyline([camera.project(*a, z), camera.project(*b, z)], camera.size(thick, z))

    for way in (-1, 1):
        leg = limb((x, hip), (x + way * (0.07 + stride / 2), y), 0.17)
        arm = limb((x + way * 0.2, neck), (x + way * 0.26, y + tall * 0.45), 0.11)
        canvas.paint(leg, kind, trousers)
        canvas.paint(arm, kind, shirt * 0.9)
    trunk = ((x - 0.17, hip), (x - 0.23, neck), (x + 0.23, neck), (x + 0.17, hip))
    canvas.paint(camera.face(*((a, b, z) for a, b in trunk)), kind, shirt)
    place = camera.project(x, y + tall * 0.93, z)
    head = ellipse(*place, camera.size(0.1, z), camera.size(0.13, z))
    canvas.paint(head, kind, canvas.colour(_SKIN, 8))
