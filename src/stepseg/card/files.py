"""A model to share, in a folder: weights, card and pictures."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from stepseg.card.examples import Example, example_picture, training_curve
from stepseg.card.text import CURVE, card_text
from stepseg.checkpoint import Checkpoint, write_inference_checkpoint
from stepseg.files.writing import write_atomically, write_text
from stepseg.predict.segmenter import Segmenter

CARD = "README.md"
OURS = "library_name: stepseg"
"""A line of `front_matter`."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What was written."""

    files: dict[str, Path]
    """By their name in a repository."""
    problems: list[str]
    """Pictures that could not be drawn, in words."""


def write_shared(
    weights: Path,
    checkpoint: Checkpoint,
    about: Mapping[str, Any],
    *,
    examples: Sequence[Example] = (),
    metrics: Path | None = None,
    name: str | None = None,
    source: str | None = None,
    license_: str | None = None,
) -> Shared:
    """Write weights, pictures and card, each file atomically, the card last.

    Args:
        weights: the safetensors file; all else goes beside it.
        checkpoint: what is shared.
        about: facts of the training (`stepseg.card.facts.run_facts`).
        examples: images to show; none, no pictures.
        metrics: a CSV file of the training's metrics, for the curve.
        name: of the model; None: made of backbone and data.
        source: how a reader addresses the weights; None: by the file's name.
        license_: an identifier of the hub.

    Raises:
        ValueError: there is a README of somebody else.

    """
    check_place(weights.parent)
    checkpoint = replace(checkpoint, about={**checkpoint.about, **about})
    write_inference_checkpoint(weights, checkpoint)
    files, pictures, problems = {weights.name: weights}, {}, []
    for what, file, draw in _drawings(checkpoint, examples, metrics):
        try:
            picture = draw()
        except Exception as error:  # a card without a picture is better than none
            traceback.print_exc()
            problems.append(f"{file}: {type(error).__name__}: {error}")
            continue
        if picture is not None:
            path = weights.parent / file
            write_atomically(path, partial(picture.save, format="PNG"))
            files[file], pictures[what] = path, file
    text = card_text(
        checkpoint,
        name or default_name(checkpoint),
        pictures,
        source=source or weights.name,
        license_=license_,
    )
    card = weights.parent / CARD
    write_text(card, text)
    return Shared({CARD: card, **files}, problems)


def check_place(folder: Path) -> None:
    """Refuse a folder with a README that is no card of this project.

    Raises:
        ValueError: names the file.

    """
    card = folder / CARD
    if card.is_file() and OURS not in card.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(
            f"{card} is no model card of stepseg, and would be replaced by one: choose another "
            f"folder, or write weights without a card (card=false)"
        )


def default_name(checkpoint: Checkpoint) -> str:
    """Backbone and data set."""
    return f"stepseg {checkpoint.config.backbone.name.replace('_', '-')} {checkpoint.data['name']}"


def _drawings(
    checkpoint: Checkpoint, examples: Sequence[Example], metrics: Path | None
) -> list[tuple[str, str, Callable[[], Image.Image | None]]]:
    """What each picture shows, its file, and how to draw it."""
    drawings: list[tuple[str, str, Callable[[], Image.Image | None]]] = []
    if metrics is not None:
        drawings.append((CURVE, "pictures/curve.png", lambda: training_curve(metrics)))
    segmenter = cache(lambda: Segmenter.of(checkpoint, device="cpu"))
    for number, example in enumerate(examples, start=1):
        draw = partial(lambda example: example_picture(segmenter(), example), example)
        drawings.append((f"example {number}", f"pictures/example_{number}.png", draw))
    return drawings
