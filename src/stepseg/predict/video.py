"""Videos in and out, by PyAV: ``pip install 'stepseg[video]'``. Sound is dropped."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stepseg.data.files import ImageFileError, Pixels

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,m4v,asf"
"""FFmpeg knows others under these suffixes: lists that name other files and addresses."""
MAX_PIXELS = 2**27
"""Of a frame; 8K has 2**25."""


def read_frames(path: Path, step: int = 1) -> Iterator[tuple[int, Pixels]]:
    """Every `step`-th frame with its number, decoded one after the other, upright.

    Raises:
        ImageFileError: no video, or damaged; names the file.

    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        index = -1
        for index, frame in enumerate(container.decode(stream)):
            if index % step == 0:
                turns = round(getattr(frame, "rotation", 0) / 90)
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns)
                yield index, np.ascontiguousarray(pixels)
        if index < 0:
            raise ValueError("it has no frame that can be decoded")


def frame_rate(path: Path) -> Fraction:
    """Frames per second.

    Raises:
        ImageFileError: no video, or damaged; names the file.

    """
    with _opened(path) as container:
        return container.streams.video[0].average_rate or Fraction(25)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file that holds pictures, and nothing beside it, in FFmpeg."""
    av = pyav()
    limits = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        with path.open("rb") as file, av.open(file, options=limits) as container:
            if not container.streams.video:
                raise ValueError("it has no pictures")
            yield container
    except Exception as error:  # decoders raise anything on damaged files
        raise ImageFileError(f"{path}: cannot read this video ({error})") from error


def write_video(path: Path, frames: Iterable[Pixels], rate: Fraction) -> None:
    """Write an H.264 file atomically; odd sides lose a pixel, as the format asks.

    Raises:
        ImageFileError: frames of several sizes, or a rate that the format does not know.

    """
    av = pyav()
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
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise ImageFileError(f"{path}: cannot write this video ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def pyav() -> Any:
    """The library.

    Raises:
        ValueError: it is not installed.

    """
    try:
        import av  # optional, and slow to import
    except ImportError as error:
        raise ValueError(
            "reading videos needs PyAV: pip install 'stepseg[video]', or give the frames as images"
        ) from error
    return av
