"""Progress over images: a bar in a terminal, a line now and then in a log."""

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from stepseg.predict.inputs import File
from stepseg.telling import tell

EVERY = 10.0
"""Seconds between lines in a log."""


class Progress:
    """Counts images; how many frames videos have is not known beforehand.

    Args:
        files: the inputs.

    """

    def __init__(self, files: Sequence[File]) -> None:
        self.total = None if any(file.is_video for file in files) else len(files)
        self.done = 0
        console = Console(stderr=True)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=self.total)
        self.plain = not console.is_terminal
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def advance(self, name: str) -> None:
        """One more image is done."""
        self.done += 1
        self.bar.update(self.task, advance=1, description=name[-40:].replace("[", "\\["))
        if self.plain and time.monotonic() - self._told > EVERY:
            self._told = time.monotonic()
            of = f"/{self.total}" if self.total else ""
            tell(f"{self.done}{of}  {name}")
