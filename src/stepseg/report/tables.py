"""Tables of arenas: one content, written for the screen, as CSV, Markdown and LaTeX.

GMACs are multiply-accumulates, which the papers print as GFLOPs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stepseg.report.pareto import pareto_front
from stepseg.report.published import Match
from stepseg.report.summaries import Arena, Spread, Summary, show

COLUMNS: dict[str, tuple[str, int]] = {  # figure: title, decimals
    "mIoU": ("mIoU", 2),
    "aAcc": ("aAcc", 2),
    "mAcc": ("mAcc", 2),
    "fwIoU": ("fwIoU", 2),
    "boundary_IoU": ("boundary IoU", 2),
    "gmacs": ("GMACs", 3),
    "macs_ratio": ("fewer MACs", 2),
    "tokens_in": ("tokens in", 1),
    "tokens_out": ("tokens out", 1),
    "exited_percent": ("left early %", 1),
    "images_per_s": ("images/s", 2),
    "mfu": ("of peak", 2),
    "latency_ms_p50": ("p50 ms", 1),
    "latency_ms_p95": ("p95 ms", 1),
    "speedup": ("speed-up", 2),
    "realisation": ("realised", 2),
    "peak_memory_mb": ("MiB", 1),
    **{f"ece_{side}x{side}": (f"ECE {side} x {side}", 3) for side in (2, 4, 8, 16)},
}
DEFAULT = {
    False: "mIoU aAcc boundary_IoU gmacs tokens_in tokens_out images_per_s speedup".split(),
    True: (
        "gmacs macs_ratio tokens_in tokens_out images_per_s latency_ms_p50 speedup realisation "
        "peak_memory_mb"
    ).split(),
}
"""Figures of an accuracy table and of a benchmark's."""
FIELD_TITLES = {
    "exit_threshold": "exit θ",
    "exit_rule": "exit rule",
    "exit_blocks": "exit blocks",
    "edge_weight": "edge weight",
    "keep_per_class": "kept per class",
}
MATCH_COLUMNS = (
    "table", "row", "data", "backbone", "resolution", "line", "figure", "published", "ours",
    "difference", "ratio", "note",
)  # fmt: skip
MATCH_TITLES = {"row": "published row", "resolution": "px", "line": "our line"}


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown, and what it is sorted by."""

    text: str
    value: float | str | None = None
    std: float | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """A table, ready to be written in any form."""

    title: str
    keys: tuple[str, ...]
    heads: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    summaries: tuple[Summary, ...] = ()
    """The line behind each row, where there is one."""


def grid_of_arena(
    arena: Arena,
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    group: str | None = None,
) -> list[Grid]:
    """The table of an arena.

    Args:
        arena: its lines.
        columns: figures and fields to show; None: those that say something.
        sort: a figure or field; a leading ``-`` puts the largest first.
        group: a field; one table for each of its values.

    """
    summaries = list(arena.summaries)
    if sort:
        reverse, name = sort.startswith("-"), sort.lstrip("-")
        values = {id(s): _cell(s, name).value for s in summaries}
        known = [s for s in summaries if values[id(s)] is not None]
        known.sort(key=lambda s: _sort_key(values[id(s)]), reverse=reverse)
        summaries = known + [s for s in summaries if values[id(s)] is None]
    if group is None:
        return [_grid(arena, arena.title, summaries, columns)]
    groups: dict[str, list[Summary]] = {}
    for s in summaries:
        groups.setdefault(show(s.fields.get(group)) or "-", []).append(s)
    return [
        _grid(arena, f"{arena.title}; {group} {value}", members, columns)
        for value, members in groups.items()
    ]


def check_names(names: Sequence[str], arenas: Sequence[Arena]) -> None:
    """Refuse a column that no table could have.

    Raises:
        ValueError: naming it and the known ones.

    """
    fields = {name for arena in arenas for s in arena.summaries for name in s.fields}
    known = {*COLUMNS, "seeds", *fields}
    for name in names:
        if name not in known:
            short = sorted(n for n in known if not n.startswith("train."))
            raise ValueError(f"unknown column {name!r}; known: {', '.join(short)}")


def _grid(
    arena: Arena, title: str, summaries: Sequence[Summary], columns: Sequence[str] | None
) -> Grid:
    if columns is None:
        fields = list(arena.differing)
        figures = [n for n in DEFAULT[arena.is_benchmark] if any(n in s.figures for s in summaries)]
        seeds = ["seeds"] if any(len(s.seeds) > 1 for s in summaries) else []
        columns = [*fields, *seeds, *figures]
    front = front_of(summaries)
    heads = [FIELD_TITLES.get(c, COLUMNS.get(c, (c.removeprefix("train."), 0))[0]) for c in columns]
    keys, heads = ["system", *columns], ["system", *heads]
    numeric = [False, *(c in COLUMNS or c == "seeds" for c in columns)]
    rows = []
    for summary in summaries:
        cells = [_cell(summary, key) for key in keys]
        if front:
            cells.append(Cell("yes" if summary in front else "", float(summary in front)))
        rows.append(tuple(cells))
    if front:
        keys, heads, numeric = [*keys, "front"], [*heads, "front"], [*numeric, False]
    return Grid(title, tuple(keys), tuple(heads), tuple(numeric), tuple(rows), tuple(summaries))


def front_of(summaries: Sequence[Summary]) -> list[Summary]:
    """Lines that no other beats in mIoU and GMACs; none where there is nothing to compare."""
    known = [s for s in summaries if {"mIoU", "gmacs"} <= s.figures.keys()]
    if len(known) < 3:
        return []
    points = [(s.figures["gmacs"].mean, s.figures["mIoU"].mean) for s in known]
    return [known[i] for i in pareto_front(points)]


def _cell(summary: Summary, column: str) -> Cell:
    if column == "system":
        return _word(str(summary.system))
    if column == "seeds":
        return Cell(str(len(summary.seeds)), float(len(summary.seeds)))
    if column in COLUMNS:
        spread = summary.figures.get(column)
        if spread is None:
            return Cell("-")
        return Cell(_spread(spread, COLUMNS[column][1]), spread.mean, spread.std)
    value = summary.fields.get(column)
    if value is None or isinstance(value, int | float):
        return Cell(show(value) or "-", value)
    return _word(show(value))


def _word(text: str) -> Cell:
    return Cell(text or "-", text)


def _spread(spread: Spread, decimals: int) -> str:
    mean = f"{spread.mean:.{decimals}f}"
    return mean if spread.std is None else f"{mean} ± {spread.std:.{decimals}f}"


def _sort_key(value: float | str | None) -> tuple[bool, float, str]:
    is_text = isinstance(value, str)
    return (is_text, 0.0 if is_text else float(value or 0), str(value) if is_text else "")


def grid_of_matches(matches: Sequence[Match]) -> Grid:
    """Published figures beside ours."""
    rows = []
    for match in matches:
        text, ratio = match.published.text, match.ratio
        said = [match.published.table]
        said += [text[key] for key in ("label", "dataset", "backbone", "resolution")]
        rows.append(
            (
                *map(_word, [*said, match.summary.label, match.figure]),
                Cell(f"{match.theirs:g}", match.theirs),
                Cell(f"{match.ours:.2f}", match.ours),
                Cell(f"{match.difference:+.2f}", match.difference),
                Cell("-" if ratio is None else f"{ratio:.3f}", ratio),
                Cell(match.note, match.note),
            )
        )
    heads = tuple(MATCH_TITLES.get(key, key) for key in MATCH_COLUMNS)
    numeric = tuple(key in ("published", "ours", "difference", "ratio") for key in MATCH_COLUMNS)
    return Grid("Published figures beside ours", MATCH_COLUMNS, heads, numeric, tuple(rows))


def statistics_grid(arena: Arena) -> Grid | None:
    """Superpatches by size and exits by head (the paper's Tables 2 and 7).

    Means per view and, where the run says so, the least and the greatest of an image.
    """
    summaries = [s for s in arena.summaries if s.superpatches or len(s.tokens) > 1]
    sides = sorted({side for s in summaries for side in s.superpatches})
    stages = max((len(s.tokens) for s in summaries), default=0)
    if not summaries or (stages < 2 and not sides):
        return None
    names = [f"{side}x{side}" for side in sides]
    heads = ["line", *names, *(f"left for good by head {h}" for h in range(1, stages))]
    keys = (
        "line",
        *(f"superpatches_{s}" for s in sides),
        *(f"exited_{h}" for h in range(1, stages)),
    )
    rows = []
    for s in summaries:
        left = [s.tokens[0] - t for t in s.tokens[1:]] if s.tokens else []
        numbers: list[float | None] = [s.superpatches.get(side) for side in sides]
        numbers += [left[h] if h < len(left) else None for h in range(stages - 1)]
        ranges = [s.extremes.get(key) for key in keys[1:]]
        cells = [_counted(n, ends) for n, ends in zip(numbers, ranges, strict=True)]
        rows.append((_word(s.label), *cells))
    numeric = (False, *([True] * (len(heads) - 1)))
    return Grid(
        f"Superpatches and exits, mean (least to greatest): {arena.title}",
        keys,
        tuple(heads),
        numeric,
        tuple(rows),
    )


def _counted(mean: float | None, ends: tuple[float, float] | None) -> Cell:
    if mean is None:
        return Cell("-", None)
    return Cell(f"{mean:.1f}" + (f" ({ends[0]:g} to {ends[1]:g})" if ends else ""), mean)
