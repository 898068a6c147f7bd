"""Colours for data sets that publish none: distinct, familiar where possible, always the same."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

Colour = tuple[int, int, int]

_GOLDEN = 0.618033988749895
_TONES = ((0.75, 0.95), (0.45, 0.80), (0.90, 0.65), (0.30, 0.95), (0.60, 0.50))  # saturation, value

_FAMILIAR: dict[str, Colour] = {
    "sky": (95, 165, 230),
    "sky-other": (95, 165, 230),
    "clouds": (165, 200, 230),
    "tree": (35, 115, 45),
    "bush": (70, 140, 60),
    "grass": (120, 190, 70),
    "water": (50, 110, 190),
    "sea": (25, 80, 150),
    "river": (75, 135, 200),
    "road": (115, 110, 120),
    "sidewalk": (185, 170, 180),
    "pavement": (185, 170, 180),
    "building": (165, 100, 80),
    "house": (190, 125, 90),
    "sand": (225, 205, 140),
    "snow": (235, 240, 245),
    "person": (220, 40, 70),
    "car": (40, 45, 140),
}


def distinct_colours(classes: Sequence[str]) -> tuple[Colour, ...]:
    """One RGB colour per class, all different, none black."""
    colours: list[Colour] = []
    taken = set(_FAMILIAR.values())
    step = 0
    for name in classes:
        familiar = _FAMILIAR.get(name)
        if familiar is not None and familiar not in colours:
            colours.append(familiar)
            continue
        while (colour := _colour(step)) in taken:
            step += 1
        colours.append(colour)
        taken.add(colour)
    return tuple(colours)


def _colour(step: int) -> Colour:
    """A hue far from those of the steps before, in one of five tones."""
    saturation, value = _TONES[step % len(_TONES)]
    red, green, blue = colorsys.hsv_to_rgb(step * _GOLDEN % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
