"""One self-contained HTML page: tables that sort and filter, plots, every run's details.

No file beside it, no request: style and script (`page.css`, `page.js`) are inlined, plots are SVG.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from stepseg.report.page.runs import pending_list, problem_list, run_details
from stepseg.report.plots.style import Plot
from stepseg.report.runs import Collection
from stepseg.report.tables import Grid

FOLDER = Path(__file__).parent
EXPLANATIONS = (
    "GMACs are multiply-accumulates of one image, the papers' GFLOPs. Means ± sample deviation "
    "over seeds. <em>front</em> marks lines that no other of their table beats in both mIoU and "
    "GMACs. Images per second of different runs compare only on the same, equally idle machine; "
    "systems of one run are timed in turns."
)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with tables and plots."""

    title: str
    grids: Sequence[Grid]
    plots: Sequence[Plot]
    note: str = ""


def make_page(
    title: str,
    sections: Sequence[Section],
    collection: Collection,
    notices: Sequence[str],
    folder: Path,
    made: str,
) -> str:
    """The page.

    Args:
        title: its heading.
        sections: in order.
        collection: for what did not end or could not be read, and the runs' details.
        notices: what the reader should know first.
        folder: where the page will lie; links to logs are relative to it.
        made: when and by what.

    """
    names = [section.title for section in sections]
    names += ["Runs that did not end"] if collection.unfinished or collection.pending else []
    names += ["Files left out"] if collection.problems else []
    names += ["Runs"]
    contents = "".join(
        f'<li><a href="#s{number}">{escape(name)}</a></li>' for number, name in enumerate(names)
    )
    body = [_section(number, section) for number, section in enumerate(sections)]
    number = len(sections)
    if collection.unfinished or collection.pending:
        body.append(_heading(number, "Runs that did not end"))
        body += [run_details(run, folder) for run in collection.unfinished]
        body.append(pending_list(collection.pending, folder))
        number += 1
    if collection.problems:
        body += [_heading(number, "Files left out"), problem_list(collection.problems)]
        number += 1
    body.append(_heading(number, "Runs"))
    body += [run_details(run, folder) for run in collection.completed]
    style, script = (
        (FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="soft">{escape(made)}</p>
<p>{EXPLANATIONS}</p>
</header>
<nav aria-label="Contents"><ol>{contents}</ol></nav>
{_notices(notices)}
<div class="controls">
<input id="filter" type="search" placeholder="Filter rows, for example: STEP 6,8" \
aria-label="Filter rows of all tables">
<span id="count" class="soft" role="status"></span>
<button id="theme" type="button">Light / dark</button>
<button type="button" onclick="window.print()">Print</button>
</div>
<main>
{"".join(body)}
</main>
<div id="tip" role="tooltip"></div>
<script>
{script}</script>
</body>
</html>
"""


def _heading(number: int, title: str) -> str:
    return f'<h2 id="s{number}">{escape(title)}</h2>\n'


def _section(number: int, section: Section) -> str:
    note = f'<p class="soft">{escape(section.note)}</p>' if section.note else ""
    tables = "".join(_table(grid, section.title) for grid in section.grids)
    plots = "".join(map(_figure, section.plots))
    plots = f'<div class="plots">{plots}</div>' if plots else ""
    return f"<section>{_heading(number, section.title)}{note}{tables}{plots}</section>\n"


def _table(grid: Grid, heading: str) -> str:
    # a caption that repeats the heading is for screen readers only
    same = ' class="same"' if grid.title == heading else ""
    heads = "".join(
        f'<th scope="col"{_number(n)}><button type="button">{escape(h)}</button></th>'
        for h, n in zip(grid.heads, grid.numeric, strict=True)
    )
    rows = []
    for row in grid.rows:
        cells = []
        for key, cell, numeric in zip(grid.keys, row, grid.numeric, strict=True):
            value = "" if cell.value is None else escape(str(cell.value), quote=True)
            look = ' class="wrap"' if key == "note" else _number(numeric)
            cells.append(f'<td{look} data-value="{value}">{escape(cell.text)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>\n")
    return (
        '<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(grid.title, quote=True)}"><table class="sortable">'
        f"<caption{same}>{escape(grid.title)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>\n"
    )


def _number(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _figure(plot: Plot) -> str:
    wide = ' class="wide"' if plot.figure.get_size_inches()[0] > 7.5 else ""
    return (
        f"<figure{wide}>{plot.inline()}<figcaption><strong>{escape(plot.title)}.</strong> "
        f"{escape(shorten(plot.description))}</figcaption></figure>\n"
    )


def shorten(text: str, most: int = 280) -> str:
    """A caption of readable length; the whole text is in the plot's label."""
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " ..."


def _notices(notices: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(notice)}</li>" for notice in notices)
    return f'<div class="notice" role="note"><ul>{items}</ul></div>' if items else ""
