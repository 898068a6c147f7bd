"""The part of the page that describes runs: command, commit, versions, machine, seed, logs."""

import os
import shlex
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from stepseg.report.page.gallery import run_pictures
from stepseg.report.runs import Run
from stepseg.report.values import mapping
from stepseg.telling import counted


class Link(NamedTuple):
    """A file beside the page."""

    target: str
    text: str


def describe_run(run: Run, folder: Path) -> dict[str, Any]:
    """What the page says of a run, as plain values."""
    files = [run.path, *(path for path in run.files() if path != run.path)]
    return {
        "command": run.command,
        "status": run.status,
        "folder": run.folder,
        "facts": {k: fact for k, fact in _facts(run).items() if fact not in (None, "")},
        "pictures": run_pictures(run.folder),
        "links": [link(path, run.folder, folder) for path in files],
    }


def link(path: Path, base: Path, folder: Path) -> Link:
    """To a file, from a page in `folder`, named relative to `base`."""
    target = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return Link(quote(target), str(path.relative_to(base)))


def _facts(run: Run) -> dict[str, Any]:
    values = run.values
    environment = mapping(values.get("environment"))
    versions = mapping(values.get("versions"))
    machine = [environment.get("device_name"), values.get("device"), values.get("dtype")]
    threads = environment.get("threads")
    machine += [counted(threads, "thread")] if threads else []
    seconds = values.get("seconds")
    return {
        "status": run.status,
        "error": values.get("error"),
        "command": shlex.join([run.command, *map(str, values.get("overrides") or [])]),
        "seed": values.get("seed"),
        "seconds": f"{seconds:.1f}" if isinstance(seconds, int | float) else None,
        "commit": values.get("git_sha"),
        "machine": ", ".join(str(word) for word in machine if word),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "checkpoint": values.get("checkpoint") or run.config.get("ckpt_path"),
    }
