"""Published figures as data, and ours beside them.

`experiments/<name>/published.csv` holds what a paper prints, one row per printed row. Text columns
say what it belongs to (`KEYS`), every other column is a figure. An empty key matches anything.

Columns: ``table``, ``label`` (the row as printed), ``dataset``, ``backbone``, ``resolution`` (side
in pixels as printed), ``comparable_resolution`` (where the paper must have counted at another),
``system``, ``exit_blocks`` (``6 8``), ``tau`` (``6899``), ``statistic`` (of a distribution:
``mean``, ``minimum``, ``maximum``), figures such as ``mIoU``, ``GMACs`` (the papers' GFLOPs),
``FPS``, ``tokens``, ``superpatches_2``, ``exited_1`` (tokens that have left after the first head),
then ``source`` and ``note``.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from stepseg.report.images import special_words
from stepseg.report.summaries import Arena, Summary
from stepseg.report.systems import KINDS

NAME = "published.csv"
REQUIRED = ("table", "label", "system", "source")
KEYS = ("dataset", "backbone", "resolution", "exit_blocks", "tau")
TEXT = (*REQUIRED, *KEYS, "comparable_resolution", "statistic", "note")
DATA_OF_CLASSES = {150: "ade20k", 171: "cocostuff10k", 19: "cityscapes"}


@dataclass(frozen=True, slots=True)
class Published:
    """One printed row."""

    text: Mapping[str, str]
    figures: Mapping[str, float]

    @property
    def table(self) -> str:
        """``Table 3`` or ``Figure 5``."""
        name = self.text["table"]
        return f"Table {name}" if name.isdigit() else name

    @property
    def exit_blocks(self) -> tuple[int, ...]:
        """After which blocks tokens leave."""
        return tuple(map(int, self.text["exit_blocks"].split()))


@dataclass(frozen=True, slots=True)
class Match:
    """One figure, published and ours."""

    published: Published
    summary: Summary
    figure: str
    theirs: float
    ours: float
    note: str

    @property
    def difference(self) -> float:
        """Ours minus theirs."""
        return self.ours - self.theirs

    @property
    def ratio(self) -> float | None:
        """Ours by theirs."""
        return self.ours / self.theirs if self.theirs else None


def load_published(folder: Path) -> list[Published]:
    """Read every `published.csv` below a folder, or one file.

    Raises:
        ValueError: no such file, a missing column, an unknown system or no number; names the file
            and the line.

    """
    paths = [folder] if folder.is_file() else sorted(folder.rglob(NAME))
    if not paths:
        raise ValueError(f"no {NAME} below {folder}")
    return [entry for path in paths for entry in _load(path)]


def _load(path: Path) -> list[Published]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [c for c in REQUIRED if c not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}")
        entries = []
        for line, row in enumerate(reader, start=2):
            if None in row or None in row.values():
                raise ValueError(f"{path}, line {line}: more or fewer cells than columns")
            entries.append(_entry(row, f"{path}, line {line}"))
    return entries


def _entry(row: Mapping[str, str], where: str) -> Published:
    text = {name: (row.get(name) or "").strip() for name in TEXT}
    if text["system"] not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(f"{where}: unknown system {text['system']!r}; known: {known}")
    figures = {}
    for name, value in row.items():
        if name in TEXT or not value.strip():
            continue
        try:
            figures[name] = float(value)
        except ValueError:
            raise ValueError(f"{where}: {name} is {value!r}, not a number") from None
        if not math.isfinite(figures[name]):
            raise ValueError(f"{where}: {name} is {value!r}, not a finite number")
    try:
        blocks = [int(word) for word in text["exit_blocks"].split()]
    except ValueError:
        raise ValueError(f"{where}: exit_blocks is {text['exit_blocks']!r}, not 6 8") from None
    if blocks != sorted(set(blocks)):
        raise ValueError(f"{where}: exit_blocks {blocks} are not in rising order")
    return Published(text, figures)


def match(arenas: Iterable[Arena], published: Sequence[Published]) -> list[Match]:
    """Every published figure beside every line of ours with the same key."""
    found = []
    for arena in arenas:
        for summary in arena.summaries:
            ours = {
                "mean": comparable_figures(summary),
                "minimum": {name: low for name, (low, _) in summary.extremes.items()},
                "maximum": {name: high for name, (_, high) in summary.extremes.items()},
            }
            for entry in published:
                if not _fits(entry, summary, arena):
                    continue
                figures = ours.get(entry.text["statistic"] or "mean", {})
                note = _note(entry, summary, arena)
                for name, theirs in entry.figures.items():
                    if name in figures:
                        found.append(Match(entry, summary, name, theirs, figures[name], note))
    return sorted(found, key=lambda m: m.published.table)


def comparable_figures(summary: Summary) -> dict[str, float]:
    """A line's figures under the names of `published.csv`, counts and costs per view."""
    gmacs, views = summary.mean("gmacs"), summary.mean("views") or 1.0
    figures = {
        "mIoU": summary.mean("mIoU"),
        "GMACs": None if gmacs is None else gmacs / views,
        "FPS": summary.mean("images_per_s"),
        "tokens": summary.tokens[0] if summary.tokens else None,
        "exited_percent": summary.mean("exited_percent"),
    }
    figures |= {f"superpatches_{side}": n for side, n in summary.superpatches.items()}
    left = accumulate(before - after for before, after in pairwise(summary.tokens))
    figures |= {f"exited_{head}": n for head, n in enumerate(left, start=1)}
    return {name: value for name, value in figures.items() if value is not None}


def _fits(entry: Published, summary: Summary, arena: Arena) -> bool:
    text, system = entry.text, summary.system
    if text["system"] != system.kind or entry.exit_blocks != system.exit_blocks:
        return False
    if text["tau"] and system.tau is not None and text["tau"] != system.tau:
        return False
    if text["tau"] and system.tau is None and not arena.is_benchmark:
        return False
    name = arena.key.get("data") or DATA_OF_CLASSES.get(arena.key.get("classes") or 0)
    resolution = text["comparable_resolution"] or text["resolution"]
    ours = {
        "dataset": name,
        "backbone": summary.fields.get("backbone"),
        "resolution": arena.key["resolution"],
    }
    theirs = {**text, "resolution": resolution}
    return all(not theirs[key] or theirs[key] == str(ours[key]) for key in ours)


def _note(entry: Published, summary: Summary, arena: Arena) -> str:
    words = [entry.text["note"]] if entry.text["note"] else []
    if arena.is_benchmark and arena.key["tokens"] != "measured" and entry.text["tau"]:
        words.append("ours with prescribed token counts, of no threshold")
    if not arena.is_benchmark and (special := special_words(arena.key)):
        words.append(f"ours of {', '.join(special)}")
    if "images_per_s" in summary.figures and "FPS" in entry.figures:
        machine = arena.key.get("hardware") or summary.fields.get("device")
        words.append(f"our speed on {machine}")
    return "; ".join(words)
