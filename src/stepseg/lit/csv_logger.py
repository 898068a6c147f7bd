"""Metrics as CSV that survives interruptions: every row is in the file when its step goes on.

A resumed run keeps the rows before its checkpoint and writes the later ones again, so that no step
is missing and none is there twice.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from stepseg.files.spreadsheet import csv_lines, csv_text
from stepseg.files.writing import write_text


class CsvLogger(Logger):
    """Writes `save_dir/name/metrics.csv`; a new metric adds a column."""

    def __init__(self, save_dir: str | Path, name: str = "csv") -> None:
        super().__init__()
        self._save_dir, self._name = str(save_dir), name
        self._columns: list[str] | None = None
        self._first_step = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    def log_dir(self) -> str:
        return str(Path(self._save_dir) / self._name)

    @property
    def path(self) -> Path:
        return Path(self.log_dir) / "metrics.csv"

    def resume_at(self, step: int) -> None:
        """Keep the rows before `step` of the file that is there; otherwise it starts anew."""
        self._first_step = step

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write one row."""
        row = {key: float(value) for key, value in metrics.items()}
        if self._columns is None or not row.keys() <= set(self._columns):
            self._widen(list(row))
        assert self._columns is not None
        line = csv_lines([[{**row, "step": step}.get(column, "") for column in self._columns]])
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(line)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write `hparams.yaml`: nested plain values."""
        text = yaml.safe_dump(dict(params), sort_keys=False, allow_unicode=True)
        write_text(Path(self.log_dir) / "hparams.yaml", text)

    def _widen(self, keys: list[str]) -> None:
        """Rewrite the file with room for new columns."""
        rows = read_rows(self.path)
        if self._columns is None:  # the first row of this process
            rows = [row for row in rows if int(row["step"]) < self._first_step]
        known = {key for row in rows for key in row if row[key]} | set(self._columns or ())
        self._columns = sorted({*known, *keys, "step"})
        write_text(self.path, csv_text(self._columns, rows))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a metrics file; a last line that was cut off is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    rows = csv.DictReader(io.StringIO(complete, newline=""))
    return [row for row in rows if None not in row and None not in row.values()]
