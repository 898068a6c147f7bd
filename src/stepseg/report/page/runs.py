"""The part of the page that describes runs: command, commit, versions, machine, seed, logs."""

import os
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from stepseg.report.page.gallery import run_pictures
from stepseg.report.runs import Problem, Run
from stepseg.report.summaries import count_words
from stepseg.report.values import mapping


def run_details(run: Run, folder: Path) -> str:
    """A run, folded up."""
    values = run.values
    environment = mapping(values.get("environment"))
    versions = mapping(values.get("versions"))
    machine = [environment.get("device_name"), values.get("device"), values.get("dtype")]
    threads = environment.get("threads")
    machine += [count_words(threads, "thread")] if threads else []
    seconds = values.get("seconds")
    facts = {
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
    items = "".join(
        f"<dt>{name}</dt><dd{_look(name)}>{_code(name, str(fact))}</dd>"
        for name, fact in facts.items()
        if fact not in (None, "")
    )
    links = "".join(f"<li>{_link(path, run.folder, folder)}</li>" for path in _files(run))
    head = f"{run.command}, {run.status}: <code>{escape(str(run.folder))}</code>"
    return (
        f"<details><summary>{head}</summary><dl>{items}</dl>"
        f"{run_pictures(run.folder)}<p>Files:</p><ul>{links}</ul></details>\n"
    )


def pending_list(pending: Sequence[Path], folder: Path) -> str:
    """Output directories without a result."""
    if not pending:
        return ""
    items = "".join(f"<li>{_link(path, path.parent, folder)}</li>" for path in pending)
    return f"<p>Without result.json, so still running, or killed:</p><ul>{items}</ul>\n"


def problem_list(problems: Sequence[Problem]) -> str:
    """What could not be used."""
    items = "".join(
        f"<li><code>{escape(str(p.path))}</code>: {escape(p.message)}</li>" for p in problems
    )
    return f'<ul class="bad">{items}</ul>\n'


def _files(run: Run) -> list[Path]:
    return [run.path, *(path for path in run.files() if path != run.path)]


def _link(path: Path, base: Path, folder: Path) -> str:
    target = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return f'<a href="{quote(target)}">{escape(str(path.relative_to(base)))}</a>'


def _look(name: str) -> str:
    return ' class="bad"' if name == "error" else ""


def _code(name: str, text: str) -> str:
    text = escape(text)
    return f"<code>{text}</code>" if name in ("command", "commit", "checkpoint") else text
