"""Colours for data sets that publish none: distinct, and the same in every run."""

from __future__ import annotations

import colorsys

_GOLDEN = 0.618033988749895
_TONES = ((0.75, 0.95), (0.45, 0.80), (0.90, 0.65), (0.30, 0.95), (0.60, 0.50))  # saturation, value


def distinct_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """`count` RGB colours; neighbours in the list differ in hue and tone, none is black."""
    colours: list[tuple[int, int, int]] = []
    step = 0
    while len(colours) < count:
        saturation, value = _TONES[step % len(_TONES)]
        rgb = colorsys.hsv_to_rgb(step * _GOLDEN % 1, saturation, value)
        colour = (round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255))
        if colour not in colours:
            colours.append(colour)
        step += 1
    return tuple(colours)
