"""What is to be segmented: an image, a folder, a pattern, a video, under names for the results.

A result's name is the path below the folder or pattern without the suffix; files that would share
one keep their suffix in it. Videos are read in `video`.
"""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from stepseg.data.files import ImageFileError, Pixels, read_pixels
from stepseg.data.layouts import IMAGE_SUFFIXES
from stepseg.files.finding import files_below
from stepseg.predict import video

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True, slots=True)
class File:
    """An input file."""

    path: Path
    relative: str
    """Below the folder that was asked for, with suffix."""
    name: str
    """Of its results, different for every file."""

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class Item:
    """One image to segment."""

    file: File
    name: str
    """Of its results."""
    stamp: tuple[int, ...]
    """Size and time of the file, and the frame or those of its label: when they change, a result is
    out of date."""
    read: Callable[[], Pixels]


def find_files(
    inputs: str | Sequence[str], *, recursive: bool = True, output: Path | None = None
) -> list[File]:
    """All files of one or several inputs, in order of their paths.

    Args:
        inputs: files, folders or patterns.
        output: what lies in there is no input.

    Raises:
        ValueError: nothing there, no image in it, or the output would lie over the input.

    """
    # Files with the folder that their names are relative to, by the path that a file has only once.
    found: dict[str, tuple[Path, Path]] = {}
    for text in [inputs] if isinstance(inputs, str) else inputs:
        for path, root in _look(str(text), recursive):
            if output is None or not path.resolve().is_relative_to(output.resolve()):
                found.setdefault(os.path.abspath(path), (path, root))
            elif not Path(text).is_dir():
                raise ValueError(
                    f"input {str(path)!r} lies in the output folder {str(output)!r}, which its "
                    f"results could overwrite: choose another output"
                )
        if output is not None and Path(text).is_dir():
            _check_apart(Path(text), output)
    if not found:
        raise ValueError(f"input={inputs!r}: everything there lies in the output folder")
    roots = dict(found.values())
    relatives = _relative_names(roots)
    names = _distinct(relatives)
    return [
        File(path, relative, name)
        for path, relative, name in zip(roots, relatives, names, strict=True)
    ]


def items_of(files: Sequence[File], frames: int = 1) -> Iterator[Item]:
    """The images of the files; of videos every `frames`-th frame, as they are decoded.

    Raises:
        ImageFileError: a file that vanished, or a video that cannot be read, when its turn comes;
            names it.

    """
    for file in files:
        if file.is_video:
            stamp = stamp_of_image(file.path)
            for index, pixels in video.read_frames(file.path, frames):
                name = _frame_name(file, index)
                yield Item(file, name, (*stamp, index), partial(_same, pixels))
        else:
            stamp = stamp_of_image(file.path)
            yield Item(file, file.name, stamp, partial(read_pixels, file.path))


def first_name(file: File) -> str:
    """Of the results of an image, or of a video's first frame."""
    return _frame_name(file, 0) if file.is_video else file.name


def _frame_name(file: File, index: int) -> str:
    return f"{file.name}/frame_{index:06d}"


def _same(pixels: Pixels) -> Pixels:
    return pixels


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of a file: when they change, so has its content."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def stamp_of_image(path: Path) -> tuple[int, int]:
    """The same of an input or its label, whose end is no fault of its results' name.

    Raises:
        ImageFileError: it is no longer there; names it.

    """
    try:
        return stamp_of(path)
    except OSError as error:
        raise ImageFileError(
            f"{path}: it was there when the run began and vanished since ({error.strerror}): put "
            f"it back and run again"
        ) from error


def _look(text: str, recursive: bool) -> list[tuple[Path, Path]]:
    """Files behind one input, each with the folder that its name is relative to."""
    path = Path(text)
    if path.is_dir():
        return [(file, path) for file in _images_in(path, recursive)]
    if path.exists():
        return [(path, path.parent)]
    if not glob.has_magic(text):
        raise ValueError(f"input={text!r} does not exist")
    matches = sorted(Path(match) for match in glob.glob(text, recursive=True))
    files = [match for match in matches if match.is_file() and not match.name.startswith(".")]
    if not files:
        raise ValueError(f"input={text!r}: no file matches this pattern")
    fixed = path.parts[:-1]
    literal = next((i for i, part in enumerate(fixed) if glob.has_magic(part)), len(fixed))
    root = Path(*fixed[:literal]) if literal else Path()
    return [(file, root) for file in files]


def _images_in(folder: Path, recursive: bool) -> list[Path]:
    inside = sorted(files_below(folder) if recursive else folder.iterdir())
    files = [path for path in inside if path.is_file() and not path.name.startswith(".")]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if images:
        return images
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        hint = f"; {len(videos)} video(s) are there: give one as input, such as {videos[0]}"
    elif not recursive and any(path.is_dir() for path in inside):
        hint = "; it has subfolders: recursive=true looks into them"
    else:
        hint = f" ({', '.join(IMAGE_SUFFIXES)})"
    held = f"holds {len(files)} file(s), but no image" if files else "is empty"
    raise ValueError(f"input={str(folder)!r} {held}{hint}")


def _check_apart(folder: Path, output: Path) -> None:
    if folder.resolve() == output.resolve():
        raise ValueError(
            f"input and output are the same folder, {str(folder)!r}: results could overwrite "
            f"images; choose another output"
        )


def _relative_names(found: Mapping[Path, Path]) -> list[str]:
    """Paths below the input's folder, or below the folder that several inputs share."""
    if len(set(found.values())) == 1:
        return [path.relative_to(root).as_posix() for path, root in found.items()]
    common = os.path.commonpath([os.path.abspath(root) for root in found.values()])
    return [Path(os.path.relpath(os.path.abspath(path), common)).as_posix() for path in found]


def _distinct(relatives: Sequence[str]) -> list[str]:
    """Names without suffix; where results of two files would meet, with."""
    names = [str(Path(relative).with_suffix("").as_posix()) for relative in relatives]
    while True:
        folded = [name.casefold() for name in names]
        counts = Counter(folded)
        folders = {str(parent) for name in folded for parent in PurePosixPath(name).parents}
        clashing = [
            index
            for index, name in enumerate(folded)
            if counts[name] > 1 or _results(relatives[index], name) & folders
        ]
        if all(names[i] == relatives[i] for i in clashing):
            return names
        for i in clashing:
            names[i] = relatives[i]


def _results(relative: str, name: str) -> set[str]:
    """What no folder may be called: files of an image's results, the folder of a video's frames."""
    if PurePosixPath(relative).suffix.lower() in VIDEO_SUFFIXES:
        return {name, f"{name}.mp4"}
    return {f"{name}.png", f"{name}.json"}
