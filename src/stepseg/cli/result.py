"""`result.json`: what a command did, written once, whole, and also when the command fails."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stepseg import __version__
from stepseg.cli.failures import one_message
from stepseg.cli.request import mask_sweep, write_request
from stepseg.files.folder_lock import folder_lock
from stepseg.files.writing import write_json
from stepseg.lit.grace import Grace
from stepseg.lit.stopping import LAST, REQUEUE_EXIT_CODE, TrainingInterrupted
from stepseg.masking import masked, masked_text

PACKAGES = (
    "torch", "torchvision", "lightning", "hydra-core", "omegaconf", "timm", "torchmetrics",
)  # fmt: skip

SIGNALS = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGUSR1") if hasattr(signal, n))
GRACE_SECONDS = 120.0
"""Of commands whose configuration has no `stop.grace_seconds`."""


class Result:
    """Collects figures while a command runs; leaving the block writes the file.

    Leaving it by an exception writes ``failed`` (or ``interrupted``) with the message and lets the
    exception pass. Only the first process of a distributed run writes.

    Args:
        folder: the output directory.
        command: name of the command.
        overrides: what the user typed.
        config: plain, see `stepseg.cli.config.recorded`.
        hidden: whether the folder also gets `.hydra`, with the two.

    Raises:
        FolderInUseError: on entering the block, another command works in the folder.
        ValueError: likewise, another command has left its result there.

    """

    def __init__(
        self,
        folder: str | Path,
        *,
        command: str,
        overrides: list[str],
        config: Mapping[str, Any],
        hidden: bool = True,
    ) -> None:
        self.path = Path(folder) / "result.json"
        self.values: dict[str, Any] = {
            "status": "running",
            "command": command,
            "overrides": [masked_text(typed) for typed in overrides],
            "config": masked(config),
            "versions": _versions(),
            "git_sha": _git_sha(),
            "seed": config.get("seed"),
        }
        self.hidden = hidden
        self._held = ExitStack()
        self._start = time.perf_counter()
        self._previous: dict[int, Any] = {}
        seconds = config.get("stop", {}).get("grace_seconds", GRACE_SECONDS)
        # The first process speaks for all, and ends the others: they come later.
        self.grace = Grace(seconds if is_first_process() else seconds + 10, self._give_up)

    def update(self, values: Mapping[str, Any]) -> None:
        """Add figures."""
        self.values.update(values)

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return round(time.perf_counter() - self._start, 3)

    def described(self) -> dict[str, Any]:
        """What was run, for trackers: the configuration, and beside it versions and commit."""
        keys = ("command", "overrides", "versions", "git_sha")
        return {**self.values["config"], **{key: self.values[key] for key in keys}}

    def __enter__(self) -> Self:
        if is_first_process():
            folder, values = self.path.parent, self.values
            self._held.enter_context(folder_lock(folder, values["command"]))
            self._check_folder()
            if self.hidden:
                write_request(folder, values["overrides"], values["config"])
            mask_sweep()
        # a batch system's signals end the command like Ctrl-C, so that the file is written
        for signum in SIGNALS:
            try:
                self._previous[signum] = signal.signal(signum, _interrupt)
            except ValueError:  # not in the main thread
                break
        self.grace.__enter__()
        return self

    def _check_folder(self) -> None:
        try:
            there = read_result(self.path).get("command")
        except ValueError:  # none, or nothing that would be missed
            return
        if there is not None and there != self.values["command"]:
            raise ValueError(
                f"{self.path.parent} holds the result of {there}, which {self.values['command']} "
                f"would replace: choose another folder, or remove {self.path}"
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self.grace.__exit__()
        if kind is None:
            self.values["status"] = "completed"
        elif was_interrupted(error):
            self.values["status"] = "interrupted"
            if isinstance(error, TrainingInterrupted):
                self.values["interrupted_by"] = error.signal.name
                self.values["steps"] = error.step
                self.values["checkpoint"] = error.checkpoint and str(error.checkpoint)
        else:
            self.values["status"] = "failed"
            message = masked_text(one_message(error or kind()))
            self.values["error"] = f"{kind.__name__}: {message}"
        with self._held:
            self._write()

    def fail(self, message: str, status: str = "failed") -> None:
        """Write a failure at once, where the block will not be left any more."""
        self.values |= {"status": status, "error": message}
        self._write()

    def _give_up(self, signum: int) -> int:
        """Tell of a signal that was not obeyed; returns the exit code."""
        name, last = signal.Signals(signum).name, self.path.parent / "checkpoints" / LAST
        said = (
            f"{name} was not obeyed within {self.grace.seconds:g} s (stop.grace_seconds), ended by "
            f"force"
        )
        self.values["interrupted_by"] = name
        if last.is_file():
            self.values["checkpoint"] = str(last)
            said += f"; go on with the same command, hydra.run.dir={last.parents[1]} ckpt_path=last"
        self.fail(said, "interrupted")
        print(f"{self.values['command']}: {said}", file=sys.stderr, flush=True)
        return REQUEUE_EXIT_CODE if last.is_file() and signum != signal.SIGINT else 130

    def _write(self) -> None:
        self.values["seconds"] = self.seconds
        try:
            self.save()
        except OSError as error:  # what ended the run matters more
            print(f"{self.path} could not be written: {error}", file=sys.stderr)

    def save(self) -> None:
        """Write the file as it is now."""
        if is_first_process():
            write_json(self.path, _finite(self.values))


RANKS = (
    "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK",  # Lightning, torchrun
    "SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK",
)  # fmt: skip
"""What those who start processes number them by."""


def is_first_process() -> bool:
    """Whether this is the one process of a run that writes files; known before they connect."""
    return all(os.environ.get(name) in (None, "", "0") for name in RANKS)


def read_result(path: str | Path) -> dict[str, Any]:
    """Read a `result.json`.

    Raises:
        ValueError: no such file, or not one of ours; names it.

    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable as a result: {error}") from error
    if not isinstance(values, dict) or "status" not in values:
        raise ValueError(f"{path} is no result of stepseg: it has no 'status'")
    return values


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C or SIGTERM is behind it; Lightning turns Ctrl-C into an exit of its own."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:  # causes and contexts may form a circle
        if isinstance(error, KeyboardInterrupt | TrainingInterrupted):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


@cache
def _versions() -> dict[str, str]:
    versions = {"stepseg": __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_sha() -> str | None:
    """The checkout's commit, with ``-dirty`` for uncommitted changes.

    Outside a checkout what `STEPSEG_COMMIT` says, as the image does: an installed package may lie
    in the repository of another project.
    """
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return os.environ.get("STEPSEG_COMMIT") or None
    return _commit(root)


@cache
def _commit(root: Path) -> str | None:
    """As it was when first asked for, like the code that runs."""
    git = ["git", "-C", str(root)]
    try:
        sha = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{sha}-dirty" if changes else sha


def _finite(value: Any) -> Any:
    """JSON has no NaN: None instead."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
