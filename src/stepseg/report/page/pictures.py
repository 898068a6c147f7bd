"""Pictures that runs have drawn, small enough to travel within the page."""

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image

MOST = 3
"""Pictures shown of a run; all of them stay in its folder."""
WIDTH = 1000
"""Pixels, at most."""
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
    picture.thumbnail((WIDTH, WIDTH * 4), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=85)
    data = base64.b64encode(encoded.getvalue()).decode("ascii")
    name = escape(f"{path.parent.name}/{path.stem}")
    return (
        f'<figure><img alt="{name}" loading="lazy" src="data:image/webp;base64,{data}">'
        f"<figcaption>{name}</figcaption></figure>"
    )
