"""What `stepseg-predict` was asked for, checked before a weight is loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepseg.predict import video
from stepseg.predict.inputs import File, find_files
from stepseg.predict.prediction import KINDS


def check_options(values: Mapping[str, Any]) -> None:
    """Refuse what cannot work.

    Raises:
        ValueError: names the key and the remedy.

    """
    if not values["ckpt_path"]:
        raise ValueError("ckpt_path= is missing: give a checkpoint of stepseg-train")
    if not values["input"]:
        raise ValueError("input= is missing: give an image, a folder, a pattern or a video")
    pictures = values["pictures"] or []
    if isinstance(pictures, str) or any(kind not in KINDS for kind in pictures):
        raise ValueError(f"pictures={pictures!r}: a list of {', '.join(KINDS)}")
    if "difference" in pictures and not values["labels"]:
        raise ValueError("pictures=[difference] needs labels=<folder of ground truth>")
    if values["mp4"] and "overlay" not in pictures:
        raise ValueError("mp4=true joins overlays: add overlay to pictures")
    for key in ("batch_size", "frames"):
        if not isinstance(values[key], int) or values[key] < 1:
            raise ValueError(f"{key} is a number of at least 1, got {values[key]!r}")


def input_files(values: Mapping[str, Any], output: Path) -> list[File]:
    """The files to segment.

    Raises:
        ValueError: there are none, results could overwrite them, or videos cannot be read here.

    """
    given = values["input"]
    inputs = [str(one) for one in given] if isinstance(given, list) else str(given)
    files = find_files(inputs, recursive=values["recursive"], output=output)
    if any(file.is_video for file in files):
        video.pyav()  # refuses early where it is missing
    elif values["mp4"]:
        raise ValueError("mp4=true, but no input is a video")
    return files
