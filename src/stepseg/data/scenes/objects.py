"""Vehicles, persons and poles of the generated scenes, drawn in order of depth."""

from __future__ import annotations

import numpy as np

from stepseg.data.scenes.canvas import Canvas, Colour, Point, ellipse, polygon, polyline, rectangle
from stepseg.data.sets.synthetic import PERSON, POLE, VEHICLE

_PAINTS: tuple[Colour, ...] = ((235, 195, 40), (240, 165, 50), (240, 240, 235), (60, 190, 205))
_CLOTHES: tuple[Colour, ...] = ((205, 40, 110), (175, 50, 160), (215, 60, 90), (190, 75, 140))
_SKIN: tuple[Colour, ...] = ((235, 200, 170), (200, 150, 115), (150, 105, 75))
_METALS: tuple[Colour, ...] = ((45, 45, 52), (60, 55, 55))
_PLATES: tuple[Colour, ...] = ((30, 40, 60), (50, 35, 45), (25, 50, 50))


def paint_objects(canvas: Canvas, horizon: int, road: tuple[Point, Point]) -> None:
    """Add objects to the scene, the far ones first.

    `road` is the (left, right) x of the road at the horizon and at the lower edge.
    """
    rng = canvas.rng
    painters = [
        painter
        for painter in (_paint_vehicle, _paint_person, _paint_pole)
        for _ in range(2 if rng.random() < 0.15 else 1)
    ]
    depths = rng.uniform(0.12, 0.9, len(painters))
    if rng.random() < 0.12:
        _paint_wire(canvas, horizon)
    for index in np.argsort(depths):
        depth = float(depths[index])
        (far_left, far_right), (near_left, near_right) = road
        left = max(far_left + (near_left - far_left) * depth, 0)
        right = min(far_right + (near_right - far_right) * depth, canvas.width)
        base = horizon + (canvas.height - horizon) * depth
        painters[index](canvas, depth, base, (left, right))


def _paint_vehicle(canvas: Canvas, depth: float, base: float, road: Point) -> None:
    """A car from the side or the back: body, cabin with windows, wheels."""
    rng = canvas.rng
    long = canvas.length(120 + 140 * depth)
    high = long * rng.uniform(0.26, 0.36)
    x = rng.uniform(road[0], max(road[0] + 1, road[1] - long))
    paint = canvas.colour(_PAINTS)
    glass = canvas.colour(((60, 75, 90), (150, 170, 185)))
    tyre = np.full(3, 30, dtype=np.float32)
    body_top = base - high
    roof = body_top - high * rng.uniform(0.7, 0.95)
    inset = long * rng.uniform(0.14, 0.24)
    cabin = (
        (x + inset * 0.6, body_top),
        (x + inset * 1.2, roof),
        (x + long - inset * 1.2, roof),
        (x + long - inset * 0.6, body_top),
    )
    canvas.paint(polygon(*cabin), VEHICLE, paint * 0.9)
    canvas.paint(rectangle(x, body_top, x + long, base - high * 0.15), VEHICLE, paint)
    middle, gap = x + long / 2, long * 0.02
    for left, right in ((x + inset * 1.3, middle - gap), (middle + gap, x + long - inset * 1.3)):
        canvas.paint(rectangle(left, roof + high * 0.15, right, body_top - 1), VEHICLE, glass)
    for share in (0.22, 0.78):
        wheel = ellipse(x + long * share, base - high * 0.2, high * 0.32, high * 0.32)
        canvas.paint(wheel, VEHICLE, tyre)


def _paint_person(canvas: Canvas, depth: float, base: float, road: Point) -> None:
    """A standing person: legs, trunk, head."""
    rng = canvas.rng
    tall = canvas.length(130 + 100 * depth)
    half = tall * rng.uniform(0.16, 0.2)
    x = rng.uniform(half, canvas.width - half)
    top = base - tall
    trousers, shirt = canvas.colour(_CLOTHES) * 0.75, canvas.colour(_CLOTHES)
    head = tall * 0.1
    legs = polygon(
        (x - half * 0.7, base),
        (x - half * 0.8, top + tall * 0.5),
        (x + half * 0.8, top + tall * 0.5),
        (x + half * 0.7, base),
    )
    canvas.paint(legs, PERSON, trousers)
    canvas.paint(rectangle(x - half, top + tall * 0.2, x + half, top + tall * 0.55), PERSON, shirt)
    canvas.paint(ellipse(x, top + head, head * 0.85, head), PERSON, canvas.colour(_SKIN, 8))


def _paint_pole(canvas: Canvas, depth: float, base: float, road: Point) -> None:
    """A thin post, often with a sign."""
    rng = canvas.rng
    thick = canvas.length(9 + 3 * depth)
    x = rng.uniform(0.03, 0.97) * canvas.width
    top = base - canvas.length(150 + 130 * depth)
    metal = canvas.colour(_METALS)
    canvas.paint(rectangle(x, top, x + thick - 1, base), POLE, metal)
    if rng.random() < 0.7:
        radius = canvas.length(32 + 18 * depth)
        plate = canvas.colour(_PLATES)
        centre = (x + thick / 2, top + radius)
        if rng.random() < 0.5:
            canvas.paint(ellipse(*centre, radius, radius), POLE, plate)
        else:
            box = (centre[0] - radius, top, centre[0] + radius, top + 1.5 * radius)
            canvas.paint(rectangle(*box), POLE, plate)


def _paint_wire(canvas: Canvas, horizon: int) -> None:
    """A slightly sagging cable across the sky."""
    rng = canvas.rng
    start, end = rng.uniform(0.08, 0.5, 2) * horizon
    sag = canvas.length(5, 25)
    shares = np.linspace(0, 1, 9)
    points = [
        (float(s * canvas.width), float(start + (end - start) * s + 4 * sag * s * (1 - s)))
        for s in shares
    ]
    canvas.paint(polyline(points, canvas.length(6, 8)), POLE, canvas.colour(_METALS) * 0.7)
