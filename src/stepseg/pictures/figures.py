"""Pictures of one image: panels with captions and legends, the way the paper prints them.

STEP, Figure 3 (superpatches) and Figures 7 and 8 (what remains after every exit). Prediction,
reports and loggers all draw these. Single panels, aligned to the pixel, are in `drawing`.

Letters: H x W pixels.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from stepseg.data.labels import IGNORE_INDEX
from stepseg.pictures.drawing import (
    REPAIRED,
    SPOILT,
    WRONG,
    Labels,
    Palette,
    Picture,
    change_picture,
    confidence_picture,
    error_picture,
    overlay_picture,
    remaining_picture,
    superpatch_picture,
)
from stepseg.pictures.looks import DIFFERENCE, window_colour
from stepseg.pictures.panels import (
    Entry,
    arrange,
    below,
    captioned,
    colour_bar,
    enlarge,
    font_size,
    good_columns,
    legend,
)
from stepseg.pictures.token_maps import TokenMaps

IGNORED = (45, 45, 45)
"""In legends, of what is striped in black and grey."""

Panel = tuple[str, Image.Image]


def superpatch_figure(image_HW3: Picture, maps: TokenMaps) -> Image.Image:
    """Figure 3: the tokens after merging, with a legend of their sizes."""
    picture = superpatch_picture(image_HW3, maps.token_HW, maps.superpatch_HW)
    count = len(np.unique(maps.token_HW))
    return _figure([(f"{count} tokens after merging", picture)], _window_entries(maps))


def exit_figure(
    image_HW3: Picture,
    maps: TokenMaps,
    exit_blocks: Sequence[int],
    labels_HW: Labels,
    classes: Sequence[str],
    palette: Palette,
    truth_HW: Labels | None = None,
) -> Image.Image:
    """Figures 7 and 8: image, superpatches, what remains after each exit, map.

    Args:
        image_HW3: as the model saw it.
        maps: of the same size.
        exit_blocks: the blocks after which tokens could leave.
        labels_HW: the prediction, of the same size.
        classes: names by id.
        palette: colours by id.
        truth_HW: the ground truth, for one more panel.

    """
    count, merged = len(np.unique(maps.token_HW)), bool((maps.superpatch_HW > 1).any())
    superpatches = superpatch_picture(image_HW3, maps.token_HW, maps.superpatch_HW)
    panels: list[Panel] = [
        ("image", Image.fromarray(image_HW3)),
        (f"{count} tokens after merging" if merged else f"{count} tokens", superpatches),
    ]
    for index, block in enumerate(exit_blocks):
        remain = len(np.unique(maps.token_HW[maps.exit_HW > index]))
        picture = remaining_picture(image_HW3, maps.exit_HW, index, maps.token_HW)
        panels.append((f"{remain} remain after block {block}", picture))
    panels.append(("prediction", overlay_picture(image_HW3, labels_HW, palette)))
    if truth_HW is not None:
        panels.append(("ground truth", overlay_picture(image_HW3, truth_HW, palette)))
    shown = [labels_HW] if truth_HW is None else [labels_HW, truth_HW]
    windows = _window_entries(maps) if merged else []
    return _figure(panels, [*windows, *class_entries(shown, classes, palette)])


def confidence_figure(maps: TokenMaps, threshold: float | None = None) -> Image.Image:
    """The confidence of every token with its colour bar; `threshold` is marked there."""
    picture = enlarge(confidence_picture(maps.confidence_HW))
    size = font_size(picture.width)
    marks = [] if threshold is None else [(threshold, "exit")]
    mean = float(maps.confidence_HW.mean())
    panel = captioned(picture, f"confidence of the best class, mean {mean:.2f}")
    bar = colour_bar(picture.height, size, marks)
    padded = Image.new("RGB", (bar.width, panel.height), "white")
    padded.paste(bar, (0, panel.height - picture.height))
    return arrange([panel, padded], 2)


def error_figure(
    image_HW3: Picture,
    labels_HW: Labels,
    truth_HW: Labels,
    classes: Sequence[str],
    palette: Palette,
) -> Image.Image:
    """Prediction, ground truth, and the pixels in which they differ."""
    counted = truth_HW != IGNORE_INDEX
    wrong = float((labels_HW != truth_HW)[counted].mean()) if counted.any() else 0.0
    panels = [
        ("prediction", overlay_picture(image_HW3, labels_HW, palette)),
        ("ground truth", overlay_picture(image_HW3, truth_HW, palette)),
        (f"{wrong:.1%} of the pixels differ", error_picture(image_HW3, labels_HW, truth_HW)),
    ]
    entries = class_entries([labels_HW, truth_HW], classes, palette)
    return _figure(panels, [*entries, ("differs", WRONG)])


def label_figure(
    image_HW3: Picture, labels_HW: Labels, classes: Sequence[str], palette: Palette
) -> Image.Image:
    """An image beside its labels over it, with the names of what occurs."""
    panels = [
        ("image", Image.fromarray(image_HW3)),
        ("labels", overlay_picture(image_HW3, labels_HW, palette)),
    ]
    entries = class_entries([labels_HW], classes, palette)
    if (labels_HW == IGNORE_INDEX).any():
        entries.append(("striped: ignored", IGNORED))
    return _figure(panels, entries)


def change_figure(
    image_HW3: Picture,
    dense_HW: Labels,
    labels_HW: Labels,
    classes: Sequence[str],
    palette: Palette,
    truth_HW: Labels | None = None,
) -> Image.Image:
    """The dense model's map, the reduced model's, and where they differ."""
    share = float((dense_HW != labels_HW).mean())
    panels = [
        ("dense", overlay_picture(image_HW3, dense_HW, palette)),
        ("reduced", overlay_picture(image_HW3, labels_HW, palette)),
        (
            f"{share:.1%} of the pixels differ",
            change_picture(image_HW3, dense_HW, labels_HW, truth_HW),
        ),
    ]
    meanings: list[Entry] = [("differs", DIFFERENCE)]
    if truth_HW is not None:
        meanings = [
            ("only reduced is right", REPAIRED),
            ("only dense is right", SPOILT),
            ("neither, or not labelled", DIFFERENCE),
        ]
    return _figure(panels, [*class_entries([dense_HW, labels_HW], classes, palette), *meanings])


def class_entries(
    labels: Sequence[Labels], classes: Sequence[str], palette: Palette
) -> list[Entry]:
    """Names and colours of the classes that occur, the most frequent first."""
    counts = sum(np.bincount(label_HW.ravel(), minlength=256) for label_HW in labels)
    order = np.argsort(-np.asarray(counts), kind="stable")
    present = [int(c) for c in order if np.asarray(counts)[c] and c < len(classes)]
    return [(classes[c], (palette[c][0], palette[c][1], palette[c][2])) for c in present]


def _figure(panels: Sequence[Panel], entries: Sequence[Entry]) -> Image.Image:
    enlarged = [(text, enlarge(picture)) for text, picture in panels]
    width, height = enlarged[0][1].size
    columns = good_columns(len(panels), width, height)
    body = arrange([captioned(picture, text) for text, picture in enlarged], columns)
    if not entries:
        return body
    return below(body, legend(entries, body.width, font_size(width)))


def _window_entries(maps: TokenMaps) -> list[Entry]:
    entries: list[Entry] = []
    for side in (int(s) for s in np.unique(maps.superpatch_HW)):
        count = len(np.unique(maps.token_HW[maps.superpatch_HW == side]))
        entries.append((f"{side}×{side} patches: {count}", window_colour(side)))
    return entries
