"""Which images a search may see: two parts of a split that are alike, by nothing but their files.

The figures of a choice have to come from images that had no say in it. With few images two random
halves differ by more than a budget allows; how much there is to see in an image, hence how many
tokens it keeps, shows in the size of its compressed file. Images are therefore dealt in order of
that size, and no label and no output of a model is looked at.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LEAST = 10
"""Images of a part."""
RUN = 10
SCOUTED = 0.1
"""Share of the calibration images on which all families are tried."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Names of images."""

    calibration: tuple[str, ...]
    held_out: tuple[str, ...]
    scouted: tuple[str, ...]
    """Some of the calibration images."""


def split_images(images: Sequence[tuple[str, Path]], share: float, seed: int = 0) -> Parts:
    """Deal images to two parts.

    Args:
        images: names and files.
        share: of the calibration part.
        seed: of the deal between neighbours.

    Raises:
        ValueError: a part would have too few images.

    """
    if not 0 < share < 1:
        raise ValueError(f"calibration={share}: a share of the images between 0 and 1")
    if min(share, 1 - share) * len(images) < LEAST:
        raise ValueError(
            f"calibration={share} of {len(images)} images leaves a part with fewer than {LEAST}: "
            f"give more images (data.test_split=train, say) or another share"
        )
    drawn = {name: hashlib.sha256(f"{seed} {name}".encode()).hexdigest() for name, _ in images}
    by_size = sorted(images, key=lambda image: (os.path.getsize(image[1]), drawn[image[0]]))
    order = [name for name, _ in by_size]
    chosen = {name for index, name in enumerate(order) if _is_dealt(index, share)}
    calibration = tuple(name for name in order if name in chosen)
    count = max(1, round(SCOUTED * len(calibration)))
    step = len(calibration) / count
    scouted = tuple(calibration[int((i + 0.5) * step)] for i in range(count))
    return Parts(calibration, tuple(n for n in order if n not in chosen), scouted)


def _is_dealt(index: int, share: float) -> bool:
    """Whether the calibration part gets this image, forth and back, so that none gets the larger.

    Of every run of neighbours it gets its share: both parts have all sizes.
    """
    run, place = divmod(index, RUN)
    place = RUN - 1 - place if run % 2 else place
    return int((place + 1) * share + 0.5) > int(place * share + 0.5)
