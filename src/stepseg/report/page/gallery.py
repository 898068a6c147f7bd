"""Pictures that runs have drawn, small enough to travel within the page."""

from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from stepseg.pictures.uri import picture_uri

MOST = 3
"""Pictures shown of a run; all of them stay in its folder."""
LONGEST = 1000
"""Longer side in pixels, at most."""
PLACES = ("pictures/step_*", "checkpoints/pictures", "exits", "superpatches", "overlay")
"""Where training, its card and prediction put pictures; the first that has some is shown."""


def run_pictures(folder: Path) -> str:
    """The pictures of a run as figures, or nothing; an unreadable one is left out."""
    figures = [_figure(path) for path in find_pictures(folder)]
    return f'<div class="pictures">{"".join(figures)}</div>' if any(figures) else ""


def find_pictures(folder: Path) -> list[Path]:
    """Some pictures of a run, in a fixed order; of several validations those of the last."""
    for place in PLACES:
        folders = sorted(path for path in folder.glob(place) if path.is_dir())
        found = sorted(folders[-1].rglob("*.png")) if folders else []
        if found:
            return found[:MOST]
    return []


def _figure(path: Path) -> str:
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    uri = picture_uri(np.asarray(picture), LONGEST)
    name = escape(f"{path.parent.name}/{path.stem}")
    return (
        f'<figure><img alt="{name}" loading="lazy" src="{uri}">'
        f"<figcaption>{name}</figcaption></figure>"
    )
