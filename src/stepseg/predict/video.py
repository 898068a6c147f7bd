"""Videos in and out, by PyAV: ``pip install 'stepseg[video]'``. Sound is dropped."""

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stepseg.data.files import ImageFileError, Pixels


def read_frames(path: Path, step: int = 1) -> Iterator[tuple[int, Pixels]]:
    """Every `step`-th frame with its number, decoded one after the other, upright.

    Raises:
        ImageFileError: no video, or damaged; names the file.

    """
    av = _av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageFileError(f"{path}: no pictures in this file")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            index = -1
            for index, frame in enumerate(container.decode(stream)):
                if index % step == 0:
                    turns = round(getattr(frame, "rotation", 0) / 90)
                    pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns)
                    yield index, np.ascontiguousarray(pixels)
            if index < 0:
                raise ImageFileError(f"{path}: this video has no frame that can be decoded")
    except av.FFmpegError as error:
        raise ImageFileError(f"{path}: cannot read this video ({error})") from error


def frame_rate(path: Path) -> Fraction:
    """Frames per second."""
    with _av().open(str(path)) as container:
        return container.streams.video[0].average_rate or Fraction(25)


def write_video(path: Path, frames: Iterable[Pixels], rate: Fraction) -> None:
    """Write an H.264 file atomically; odd sides lose a pixel, as the format asks."""
    av = _av()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        with av.open(str(temporary), "w") as container:
            stream = None
            for pixels in frames:
                even = pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]
                if stream is None:
                    stream = container.add_stream("libx264", rate=rate)
                    stream.height, stream.width = even.shape[:2]
                    stream.pix_fmt = "yuv420p"
                    stream.options = {"crf": "20"}
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
                container.mux(stream.encode(picture))
            if stream is not None:
                container.mux(stream.encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_installed() -> None:
    """Refuse early where PyAV is missing."""
    _av()


def _av() -> Any:
    try:
        import av  # optional, and slow to import
    except ImportError as error:
        raise ValueError(
            "reading videos needs PyAV: pip install 'stepseg[video]', or give the frames as images"
        ) from error
    return av
