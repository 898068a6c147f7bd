"""Downloads that continue after an interruption and are checked before they count as complete."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from stepseg.data.prepare.inside import inside

_CHUNK = 1 << 20
_TIMEOUT_S = 60

Progress = Callable[[int, int | None], None]
"""(bytes so far, bytes in all or None) -> nothing"""


class DownloadError(ValueError):
    """A file that could not be fetched completely or is not the expected one."""


@dataclass(frozen=True)
class Source:
    """A published archive."""

    url: str
    sha1: str | None = None
    """Published checksum; None where the publisher gives none."""

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def fetch(source: Source, folder: Path, progress: Progress | None = None) -> Path:
    """Return the verified archive in `folder`, downloading what is missing of it.

    An interrupted download stays as `NAME.part`, and the next call continues it.

    Raises:
        DownloadError: no connection, incomplete, or wrong checksum; says what to do.
        OutsideError: `folder` holds a link under the name of the download.
    """
    target = folder / source.file_name
    if target.is_file():
        verify_sha1(target, source.sha1)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = inside(folder, target.with_name(target.name + ".part"))
    inside(folder, _validator_file(part))
    try:
        _download(source.url, part, progress)
    except urllib.error.HTTPError as error:
        raise DownloadError(
            f"{source.url} answers {error.code} {error.reason}. {_by_hand(target)}"
        ) from error
    except (urllib.error.URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        kept = f"{part.stat().st_size} bytes are kept in {part}; " if part.exists() else ""
        raise DownloadError(
            f"cannot download {source.url}: {reason}. {kept}run the command again to continue. "
            f"{_by_hand(target)}"
        ) from error
    try:
        verify_sha1(part, source.sha1)
    except DownloadError:
        part.unlink()
        _validator_file(part).unlink(missing_ok=True)
        raise
    part.replace(target)
    _validator_file(part).unlink(missing_ok=True)
    return target


def verify_sha1(path: Path, expected: str | None) -> None:
    """Compare a file with its published checksum, if there is one.

    Raises:
        DownloadError: they differ.
    """
    if expected is None:
        return
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha1").hexdigest()
    if actual != expected:
        raise DownloadError(
            f"{path} has sha1 {actual}, the publisher states {expected}. Delete the file and "
            "download it again."
        )


def _by_hand(target: Path) -> str:
    return f"Or fetch the file by other means, save it as {target} and run the command again."


def _validator_file(part: Path) -> Path:
    """Remembers which version of the remote file the part belongs to."""
    return part.with_name(part.name + ".version")


def _download(url: str, part: Path, progress: Progress | None) -> None:
    request = urllib.request.Request(url)
    start = part.stat().st_size if part.exists() else 0
    version = _validator_file(part)
    if start:
        request.add_header("Range", f"bytes={start}-")
        if version.exists():  # the server then sends the whole file if it has changed
            request.add_header("If-Range", version.read_text(encoding="utf-8").strip())
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and _range_total(error) == start:  # all bytes are here already
            return
        raise
    with response:
        continues = response.status == 206 and _range_start(response) == start
        done = start if continues else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator and not validator.startswith("W/"):
            version.write_text(validator, encoding="utf-8")
        with part.open("ab" if continues else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done} of {total} bytes")


def _range_start(response: Any) -> int | None:
    """First byte of a partial answer: 'bytes 100-199/200' -> 100."""
    described = response.headers.get("Content-Range", "")
    first = described.removeprefix("bytes ").split("-", 1)[0]
    return int(first) if first.isdigit() else None


def _range_total(response: Any) -> int | None:
    """Length in the header of a refused range: 'bytes */200' -> 200."""
    total = response.headers.get("Content-Range", "").rsplit("/", 1)[-1]
    return int(total) if total.isdigit() else None
