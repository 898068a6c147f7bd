"""What a person sees of a sweep: a live table in a terminal or lines, and a summary at the end."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gpu_pool.job import OBJECTIVES, Job, State

COLOURS = {
    State.WAITING: "dim", State.RUNNING: "cyan", State.COMPLETED: "green",
    State.SKIPPED: "dim green", State.FAILED: "bold red", State.INTERRUPTED: "yellow",
}  # fmt: skip

WIDTH = 140
"""Columns of the summary where no terminal says how wide it is."""

TAIL = 12
"""Lines shown of the log of a failed job."""


class SweepStatus:
    """Shows the jobs of one sweep; use as a context manager.

    Args:
        objective: the figure shown of completed jobs; None: mIoU or mAP.

    """

    def __init__(
        self, jobs: Sequence[Job], *, objective: str | Sequence[str] | None = None
    ) -> None:
        self.jobs = jobs
        self.wanted = objective
        self.console = _console()
        self._live: Live | None = None
        self._drawn = 0.0

    def opening(self, folder: Path, where: str) -> None:
        """Say what is there to do, and where."""
        self.console.print(
            f"{len(self.jobs)} jobs, {sum(job.done for job in self.jobs)} of them completed "
            f"before, on {where}, in {folder}",
            highlight=False,
        )

    def __enter__(self) -> "SweepStatus":
        if self.console.is_terminal:
            self._live = Live(
                console=self.console, auto_refresh=False, vertical_overflow="crop", transient=True
            ).__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live:
            self._live.__exit__(None, None, None)
            self._live = None

    def started(self, job: Job) -> None:
        """A job begins."""
        self._line(f"#{job.number} started on {job.slot}: {job.label}  ({job.log})")

    def ended(self, job: Job, *, again: bool) -> None:
        """A job is over, or is tried again."""
        done = sum(j.state not in (State.WAITING, State.RUNNING) for j in self.jobs) - again
        figure = self._news(job)
        more = "  trying again" if again else ""
        self._line(
            f"[{done}/{len(self.jobs)}] #{job.number} {job.state.value} after "
            f"{clock(job.seconds)}: {job.label}{'  ' + figure if figure else ''}{more}"
        )

    def beat(self) -> None:
        """Time has passed."""
        if self._live and time.monotonic() - self._drawn > 0.5:
            self._drawn = time.monotonic()
            for job in self.jobs:
                if job.state == State.RUNNING:
                    job.tick()
            self._live.update(self.table(max(3, self.console.height - 8)), refresh=True)

    def summary(self) -> None:
        """The table of all jobs, and the end of the log of those that failed."""
        self.console.print(self.table(len(self.jobs)))
        for job in self.jobs:
            if job.state != State.FAILED:
                continue
            self.console.print(
                Text(f"\n#{job.number} {job.label} failed: {job.message}", style="bold red")
            )
            self.console.print(Text(f"the end of {job.log}:"), soft_wrap=True)
            for line in job.tail(TAIL):
                self.console.print(Text(f"  {line}", style="dim"), soft_wrap=True)

    def table(self, rows: int) -> Table:
        """The jobs, at most `rows` of them: running ones first, then failed, waiting, done."""
        shown = list(self.jobs)
        if len(shown) > rows:
            order = list(_URGENCY)
            shown = sorted(shown, key=lambda job: order.index(job.state))[:rows]
            shown.sort(key=lambda job: job.number)
        table = Table(caption=self._caption(len(shown)), caption_justify="left")
        table.add_column("#", justify="right")
        table.add_column("job", overflow="fold", ratio=3 if self._live else None)
        table.add_column("slot", no_wrap=True)
        table.add_column("state", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("result", overflow="ellipsis", no_wrap=True, max_width=44)
        table.add_column("log", overflow="fold")
        for job in shown:
            table.add_row(
                str(job.number),
                Text(job.label),
                job.slot,
                Text(job.state.value, style=COLOURS[job.state]),
                clock(job.seconds) if job.seconds else "",
                Text(self._news(job)),
                Text(self._log_name(job)),
            )
        return table

    def _news(self, job: Job) -> str:
        """The figure of a job that is done, else its last words."""
        if job.state == State.RUNNING:
            return job.last_line()
        if not job.done:
            return job.message.splitlines()[0] if job.message else ""
        names = [self.wanted] if isinstance(self.wanted, str) else self.wanted
        names = names or [name for name in OBJECTIVES if name in job.result][:1]
        return "  ".join(f"{name} {_number(job.result.get(name))}" for name in names)

    def _log_name(self, job: Job) -> str:
        return f"{job.folder.name}/{job.log.name}" if job.attempts or job.done else ""

    def _caption(self, shown: int) -> str:
        counts = {state: sum(job.state == state for job in self.jobs) for state in State}
        parts = [f"{count} {state.value}" for state, count in counts.items() if count]
        hidden = f" ({len(self.jobs) - shown} not shown)" if shown < len(self.jobs) else ""
        folder = self.jobs[0].folder.parent if self.jobs else ""
        return f"{', '.join(parts)}{hidden}; in {folder}"

    def _line(self, text: str) -> None:
        if not self._live:
            self.console.print(Text(text), soft_wrap=True)


def _console() -> Console:
    """Standard error, wide where no terminal says how wide it is."""
    console = Console(stderr=True, soft_wrap=True)
    return console if console.is_terminal else Console(stderr=True, width=WIDTH)


_URGENCY = (
    State.RUNNING, State.FAILED, State.INTERRUPTED, State.WAITING, State.COMPLETED, State.SKIPPED,
)  # fmt: skip


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
