"""A report from folders of runs: collect, compare, draw, write.

Not here: arguments and exit status (`stepseg.cli.report`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stepseg.files.writing import write_text
from stepseg.report.page import Section, make_page
from stepseg.report.plots.collection import plots_of_arena, plots_of_parts, plots_of_policies
from stepseg.report.plots.confusion import plots_of_confusion
from stepseg.report.published import Match, Published, match
from stepseg.report.rows import Row, rows_of_runs
from stepseg.report.runs import Collection, Problem, collect
from stepseg.report.summaries import Arena, show, summarise
from stepseg.report.tables import (
    Grid,
    check_names,
    grid_of_arena,
    grid_of_matches,
    statistics_grid,
)
from stepseg.report.writers import rows_to_csv, to_csv, to_latex, to_markdown

FORMATS = ("csv", "md", "tex", "png", "svg", "html")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chooses."""

    columns: Sequence[str] | None = None
    sort: str | None = None
    group: str | None = None
    where: Sequence[tuple[str, str]] = ()
    """Fields and the values that rows need to have."""
    ignore: Sequence[str] = ()
    title: str = "stepseg report"
    formats: Sequence[str] = FORMATS

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in FORMATS:
                raise ValueError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")

    @property
    def draws(self) -> bool:
        """Whether a format has plots."""
        return not {"png", "svg", "html"}.isdisjoint(self.formats)


@dataclass(frozen=True, slots=True)
class Report:
    """What was made."""

    grids: Sequence[Grid]
    notices: Sequence[str]
    problems: Sequence[Problem]
    summary: str


def build_report(
    folders: Sequence[Path],
    out: Path,
    options: Options,
    published: Sequence[Published] = (),
    *,
    made: str = "",
) -> Report:
    """Write `index.html`, `table.*`, `rows.csv` and `plots/` into `out`.

    Raises:
        ValueError: no results, or an option that fits none of them.

    """
    collection = collect(folders)
    rows, problems = rows_of_runs(collection.completed)
    told = {row.run.path for row in rows} | {problem.path for problem in problems}
    silent = [run for run in collection.completed if run.path not in told]
    rows = _choose(rows, options.where)
    # the training of a policy alone has no rows, and so no field to choose it by
    policies = [r for r in silent if r.values.get("policy_calibration") and not options.where]
    if not rows and not policies and not collection.unfinished and not collection.pending:
        reasons = "; ".join(map(str, [*collection.problems, *problems])) or "no row is left"
        raise ValueError(f"nothing to report: {reasons}")
    arenas, notices = summarise(rows, options.ignore)
    chosen = [name for name in (*(options.columns or ()), options.group) if name]
    check_names([*chosen, *([options.sort.lstrip("-")] if options.sort else [])], arenas)
    matches = match(arenas, published)
    shown = {row.run.path for row in rows}
    drawn = [run for run in collection.completed if run.path in shown]
    plots_of_runs = {
        "Block by block": plots_of_parts(drawn),
        "Which class is taken for which": plots_of_confusion(drawn),
        "The policy": plots_of_policies([*drawn, *policies]),
    }
    problems += [problem for _, undrawn in plots_of_runs.values() for problem in undrawn]
    collection = replace(collection, problems=[*collection.problems, *problems])
    notices = [*notices, *_notices(collection)]
    notices += [f"{run.path}: {run.command} left no figures for a table" for run in silent]
    sections = _sections(arenas, options, matches)
    if options.draws:
        sections += [
            Section(name, [], plots) for name, (plots, _) in plots_of_runs.items() if plots
        ]
    _write(out, rows, sections, collection, notices, options, made)
    kinds = (
        f"{len(collection.completed)} completed runs, {len(rows)} rows, "
        f"{len(collection.unfinished) + len(collection.pending)} that did not end, "
        f"{len(collection.problems)} files left out."
    )
    grids = [grid for section in sections for grid in section.grids]
    return Report(grids, notices, collection.problems, kinds)


def _choose(rows: Sequence[Row], where: Sequence[tuple[str, str]]) -> list[Row]:
    for name, value in where:
        known = dict.fromkeys(show(r.fields.get(name)) for r in rows if name in r.fields)
        if not known:
            fields = sorted({n for r in rows for n in r.fields if not n.startswith("train.")})
            raise ValueError(f"--where {name}={value}: no such field; known: {', '.join(fields)}")
        if value not in known:
            there = ", ".join(known)
            raise ValueError(f"--where {name}={value}: no row has it; there is: {there}")
        rows = [row for row in rows if show(row.fields.get(name)) == value]
    return list(rows)


def _sections(arenas: Sequence[Arena], options: Options, matches: Sequence[Match]) -> list[Section]:
    sections = []
    for number, arena in enumerate(arenas, start=1):
        grids = grid_of_arena(arena, options.columns, options.sort, options.group)
        statistics = statistics_grid(arena)
        grids += [statistics] if statistics else []
        plots = plots_of_arena(arena, f"{number:02d}") if options.draws else []
        sections.append(Section(arena.title, grids, plots))
    if matches:
        note = (
            "Matched by data (for a benchmark, by the number of classes), backbone, resolution, "
            "system, exits and thresholds. Other hardware, weights and data stand behind the two "
            "columns; counts of tokens and GMACs are per view of the model."
        )
        sections.append(Section("Published figures", [grid_of_matches(matches)], [], note))
    return sections


def _notices(collection: Collection) -> list[str]:
    notices = []
    for run in collection.unfinished:
        error = run.values.get("error")
        notices.append(f"{run.path}: {run.status}{f', {error}' if error else ''}")
    for folder in collection.pending:
        notices.append(f"{folder}: no result.json yet; still running, or killed")
    return notices


def _write(
    out: Path,
    rows: Sequence[Row],
    sections: Sequence[Section],
    collection: Collection,
    notices: Sequence[str],
    options: Options,
    made: str,
) -> None:
    grids = [grid for section in sections for grid in section.grids]
    texts: dict[str, str] = {}
    if "csv" in options.formats:
        texts |= {"rows.csv": rows_to_csv(rows), "table.csv": to_csv(grids)}
    if "md" in options.formats:
        texts["table.md"] = to_markdown(grids)
    if "tex" in options.formats:
        texts["table.tex"] = to_latex(grids)
    if "html" in options.formats:
        left = [f"Left out: {problem}" for problem in collection.problems]
        page = make_page(options.title, sections, collection, [*left, *notices], out, made)
        texts["index.html"] = page
    kinds = [kind for kind in ("png", "svg") if kind in options.formats]
    for section in sections:
        for plot in section.plots:
            plot.save(out / "plots", kinds)
    for name, text in texts.items():
        write_text(out / name, text)
