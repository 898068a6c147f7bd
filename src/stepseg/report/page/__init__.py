"""One self-contained HTML page: tables that sort and filter, plots, every run's details.

No file beside it, no request: style and script (`page.css`, `page.js`) are inlined, plots are SVG.
`page.html` is the template, which escapes all that results say (`stepseg.files.page`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from stepseg.files.page import render
from stepseg.report.page.runs import describe_run, link
from stepseg.report.plots.style import Plot
from stepseg.report.runs import Collection
from stepseg.report.tables import Grid

FOLDER = Path(__file__).parent


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
    return render(
        FOLDER / "page.html",
        script=(FOLDER / "page.js").read_text(encoding="utf-8"),
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        title=title,
        made=made,
        notices=notices,
        sections=sections,
        figure=_figure,
        completed=[describe_run(run, folder) for run in collection.completed],
        unfinished=[describe_run(run, folder) for run in collection.unfinished],
        pending=[link(path, path.parent, folder) for path in collection.pending],
        problems=collection.problems,
        zip=zip,
    )


def _figure(plot: Plot) -> dict[str, Any]:
    return {
        "wide": plot.figure.get_size_inches()[0] > 7.5,
        "svg": Markup(plot.inline()),  # matplotlib and `inline` escape what it shows
        "caption": shorten(plot.description),
    }


def shorten(text: str, most: int = 280) -> str:
    """A caption of readable length; the whole text is in the plot's label."""
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " ..."
