"""One job of a sweep: what it is, where it writes, and how it ended.

Beside the job's own `result.json` lies the launcher's `job.json`: which job the folder belongs to.
Whether a job has completed is read from `result.json` alone, because an exit code of 0 can also
mean that a training was told to stop.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from gpu_pool.errors import SweepError
from gpu_pool.json_file import read_json

OBJECTIVES = ("mIoU", "mAP")
"""Figures of `result.json` that a job is judged by, the first that it has."""


_SECRET = re.compile(
    r"(?i)((?:^|[^a-z])(?:(?:api|access|private|secret|auth)[_-]?key|token|secrets?|passw(?:or)?d|passphrase"
    r"|credentials?)[\"']?\s*[=:]\s*)"
    r"(?!\$\{)[^,}\s]+"
)

ATTEMPT = "== attempt"
"""Begins the line of a log before the output of an attempt."""


class State(Enum):
    """Where a job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    SKIPPED = "skipped"
    """Completed by an earlier run of the same sweep."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass
class Job:
    """A job; the pool updates its state."""

    number: int
    overrides: list[str]
    config_name: str
    folder: Path
    command: list[str]
    label: str
    """What tells this job from the others of the sweep."""
    can_resume: bool = False
    state: State = State.WAITING
    slot: str = ""
    attempts: int = 0
    losses: int = 0
    """How many of them ended because a node died."""
    seconds: float = 0.0
    message: str = ""
    """Why it failed."""
    result: dict[str, Any] = field(default_factory=dict)
    _started: float = 0.0

    @property
    def log(self) -> Path:
        """Everything that the job printed, of all attempts."""
        return self.folder / "console.log"

    @property
    def done(self) -> bool:
        """Whether it has its results, from now or earlier."""
        return self.state in (State.COMPLETED, State.SKIPPED)

    def recall(self) -> None:
        """Take over what an earlier run of the sweep left in the folder.

        Raises:
            SweepError: the folder belongs to another job.

        """
        result = read_json(self.folder / "result.json")
        record = read_json(self.folder / "job.json")
        if "overrides" in record or "overrides" in result:
            self._check_same(record if "overrides" in record else result)
        if result.get("status") == "completed":
            self.state, self.result = State.SKIPPED, result

    def begin(self, slot: str) -> None:
        """An attempt has begun."""
        self.state, self.slot, self.message = State.RUNNING, slot, ""
        self._started = time.monotonic()

    def tick(self) -> None:
        """Bring the clock of a running job up to date."""
        self.seconds = time.monotonic() - self._started

    def finish(self, code: int | None, why: str = "") -> None:
        """Record how an attempt ended.

        Args:
            code: exit code of the process, 128 + the signal if one ended it; None: its node died.
            why: it failed, if the folder does not say.

        """
        if self.state == State.RUNNING:
            self.tick()
        self.losses += code is None
        self.result = read_json(self.folder / "result.json")
        status = self.result.get("status")
        if status == "completed":
            self.state = State.COMPLETED
        elif code is None:
            self.state, self.message = State.FAILED, why or "lost with its node"
        elif status == "interrupted":
            self.state, self.message = State.INTERRUPTED, "interrupted"
        else:
            self.state = State.FAILED
            self.message = self.result.get("error") or why or _end_without_result(code)

    def objective(self, wanted: str | Sequence[str] | None) -> Any:
        """The figure that a sweeper optimises, or several of them.

        Args:
            wanted: names of `result.json`; None: the mIoU of a segmenter, the mAP of a policy.

        Raises:
            SweepError: the result has no such figure.

        """
        if wanted is None:
            return next((self.result[name] for name in OBJECTIVES if name in self.result), None)
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        for name in names:
            if not isinstance(self.result.get(name), int | float):
                numbers = sorted(k for k, v in self.result.items() if isinstance(v, int | float))
                raise SweepError(
                    f"hydra.launcher.objective={name}: {self.folder / 'result.json'} has no such "
                    f"number; it has {', '.join(numbers)}"
                )
        values = tuple(self.result[name] for name in names)
        return values[0] if isinstance(wanted, str) else values

    def last_line(self) -> str:
        """What the job printed last."""
        lines = [line for line in self.tail(5, limit=4096) if line.strip()]
        return lines[-1].strip() if lines else ""

    def tail(self, lines: int, limit: int = 65536) -> list[str]:
        """The last lines of the log, of the last attempt alone."""
        try:
            with open(self.log, "rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - limit))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        found = text.splitlines()
        heads = [index for index, line in enumerate(found) if line.startswith(ATTEMPT)]
        return found[heads[-1] + 1 if heads else 0 :][-lines:]

    def _check_same(self, theirs: Mapping[str, Any]) -> None:
        before, now = list(theirs["overrides"]), masked(self.overrides)
        same_command = theirs.get("config_name", self.config_name) == self.config_name
        if before == now and same_command:
            return
        if same_command:
            gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
            difference = f"it has {gone or 'nothing'}, job {self.number} has {new or 'nothing'}"
        else:
            difference = f"it is of the config {theirs['config_name']!r}, not {self.config_name!r}"
        raise SweepError(
            f"{self.folder} holds another job: {difference}. Choose another hydra.sweep.dir, or, "
            f"to add values to a sweep, name folders by what they hold: "
            f"'hydra.sweep.subdir=${{hydra.job.override_dirname}}'"
        )


def masked(words: Sequence[str]) -> list[str]:
    """Overrides as they are written down: without values whose keys are those of secrets."""
    return [_SECRET.sub(r"\1***", word) for word in words]


def _end_without_result(code: int) -> str:
    if code > 128:
        return f"killed by signal {code - 128}"
    return f"ended with exit code {code} and without a result.json"
