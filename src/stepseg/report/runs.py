"""Find the `result.json` files below folders, and say what is wrong with those that are not usable.

Nothing is dropped in silence: what cannot be read is a `Problem`, what did not end is a `Run` that
is not completed.

Not here: what the figures mean (`stepseg.report.rows`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepseg.files.finding import folders_below

NAME = "result.json"
STATES = ("completed", "failed", "interrupted", "running")


@dataclass(frozen=True, slots=True)
class Run:
    """One `result.json`."""

    path: Path
    values: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The output directory."""
        return self.path.parent

    @property
    def status(self) -> str:
        """One of `STATES`."""
        return str(self.values["status"])

    @property
    def command(self) -> str:
        """Name of the command that wrote it."""
        return str(self.values["command"])

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration; empty where there is none."""
        config = self.values.get("config")
        return config if isinstance(config, Mapping) else {}

    @property
    def commit(self) -> str | None:
        """The first characters of the commit; a trailing ``-dirty`` stays."""
        sha = self.values.get("git_sha")
        if not isinstance(sha, str):
            return None
        return sha[:7] + ("-dirty" if sha.endswith("-dirty") else "")

    def files(self) -> list[Path]:
        """Logs, configuration and curves beside the result."""
        patterns = ("*.log", "*.out", "*.err", ".hydra/config.yaml", "**/metrics.csv", "*.csv")
        found = [path for pattern in patterns for path in sorted(self.folder.glob(pattern))]
        return [path for path in dict.fromkeys(found) if path.is_file()]


@dataclass(frozen=True, slots=True)
class Problem:
    """A file or folder that could not be used, and why."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class Collection:
    """What lies below some folders."""

    completed: Sequence[Run]
    unfinished: Sequence[Run]
    """Failed, interrupted, or still running."""
    pending: Sequence[Path]
    """Output directories without a result: running, or killed before they could write."""
    problems: Sequence[Problem]


def collect(folders: Iterable[str | Path]) -> Collection:
    """Read every `result.json` below the folders; the same file counts once.

    Raises:
        ValueError: a folder that does not exist, or nothing of stepseg below any of them.

    """
    places = [Path(folder) for folder in folders]
    paths: dict[Path, Path] = {}
    pending: list[Path] = []
    for folder in places:
        if not folder.exists():
            raise ValueError(f"{folder} does not exist")
        if folder.is_file() and folder.name != NAME:
            raise ValueError(f"{folder} is a file: give directories that hold {NAME} files")
        inside = [folder.parent] if folder.is_file() else folders_below(folder)
        for place in inside:
            if (path := place / NAME).is_file():
                paths.setdefault(path.resolve(), path)
            elif (place / ".hydra").is_dir():
                pending.append(place)
    runs: list[Run] = []
    problems: list[Problem] = []
    for path in paths.values():
        try:
            runs.append(read_run(path))
        except ValueError as error:
            problems.append(Problem(path, str(error)))
    if not runs and not problems and not pending:
        shown = ", ".join(map(str, places))
        raise ValueError(f"no {NAME} below {shown}: give directories that stepseg commands wrote")
    return Collection(
        completed=[run for run in runs if run.status == "completed"],
        unfinished=[run for run in runs if run.status != "completed"],
        pending=list(dict.fromkeys(pending)),
        problems=problems,
    )


def read_run(path: Path) -> Run:
    """Read one file.

    Raises:
        ValueError: unreadable, half-written, or not one of ours; the message does not repeat
            the path.

    """
    try:
        values = _parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"half-written, or no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"no result of stepseg: it holds a {type(values).__name__}, not an object")
    for key in ("status", "command"):
        if not isinstance(values.get(key), str):
            raise ValueError(f"no result of stepseg: it has no {key!r}")
    if values["status"] not in STATES:
        raise ValueError(f"unknown status {values['status']!r}; known: {', '.join(STATES)}")
    return Run(path, values)


def _parse(text: str) -> Any:
    """JSON whose numbers fit into floats and whose words can be written again.

    A file name that is no UTF-8 reaches us as half a character, which no encoder takes.
    """
    values = json.loads(text, parse_int=lambda n: int(n) if len(n) < 20 else float(n))
    if "\\u" not in text:
        return values
    return json.loads(json.dumps(values, ensure_ascii=False).encode("utf-8", "replace"))
