"""Pictures that runs have drawn, small enough to travel within the page."""

from pathlib import Path
from typing import NamedTuple

from stepseg.data.files import ImageFileError, read_pixels
from stepseg.pictures.uri import picture_uri

MOST = 3
"""Pictures shown of a run; all of them stay in its folder."""
LONGEST = 1000
"""Longer side in pixels, at most."""
PLACES = ("pictures/step_*", "checkpoints/pictures", "exits", "superpatches", "overlay")
"""Where training, its card and prediction put pictures; the first that has some is shown."""


class Shown(NamedTuple):
    """A picture in the page."""

    name: str
    uri: str


def run_pictures(folder: Path) -> list[Shown]:
    """The pictures of a run; an unreadable one is left out."""
    return [shown for path in find_pictures(folder) if (shown := _shown(path)) is not None]


def find_pictures(folder: Path) -> list[Path]:
    """Some pictures of a run, in a fixed order; of several validations those of the last."""
    for place in PLACES:
        folders = sorted(path for path in folder.glob(place) if path.is_dir())
        found = sorted(folders[-1].rglob("*.png")) if folders else []
        if found:
            return found[:MOST]
    return []


def _shown(path: Path) -> Shown | None:
    try:
        pixels = read_pixels(path)
    except ImageFileError:
        return None
    return Shown(f"{path.parent.name}/{path.stem}", picture_uri(pixels, LONGEST))
