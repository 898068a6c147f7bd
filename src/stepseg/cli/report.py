"""`stepseg-report`: tables, plots and one HTML page of any number of runs.

stepseg-report outputs multirun
stepseg-report multirun/eval/2026-11-21_10-00-00 --out report --sort=-mIoU
stepseg-report outputs --where data=camvid --columns mIoU,gmacs,images_per_s --group backbone

Exit status: 0; 1 when there is nothing to report; 2 for wrong arguments; 3 when the report was
written but files were left out, which it lists.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from stepseg import __version__

WIDTH = 160
"""Columns of tables where no terminal says how wide it is."""
SOME_LEFT_OUT = 3


OPTIONS = ("columns", "sort", "group", "where", "ignore", "title", "formats")


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, write and print; returns the exit status."""
    given = _parser().parse_args(arguments)
    # here, because --help needs nothing of it
    from rich.console import Console

    from stepseg.cli.paths import experiments_dir
    from stepseg.report.build import Options, build_report
    from stepseg.report.published import load_published
    from stepseg.report.writers import screen_table

    first = given.folders[0]
    out = given.out or (first.parent if first.is_file() else first) / "report"
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    try:
        published = []
        if not given.no_published:
            published = load_published(given.published or Path(experiments_dir()))
        done = build_report(
            given.folders,
            out,
            Options(**{name: getattr(given, name) for name in OPTIONS}),
            published,
            made=f"stepseg {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )
    except (ValueError, OSError) as error:
        print(f"stepseg-report: error: {error}", file=sys.stderr)
        return 1
    for grid in done.grids:
        console.print(screen_table(grid))
    for line in done.notices:
        console.print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)
    for problem in done.problems:
        print(f"left out: {problem}", file=sys.stderr)
    console.print(
        f"{done.summary} The report is {out / 'index.html'}", markup=False, soft_wrap=True
    )
    return SOME_LEFT_OUT if done.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stepseg-report", description="Tables, plots and one HTML page of any number of runs."
    )
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="DIR", help="searched for result.json files")
    add("--out", type=Path, help="folder to write to (default: report/ in the first DIR)")
    add("--title", default="stepseg report", help="heading of the page")
    add("--columns", type=_names, help="figures and fields to show, separated by commas")
    add("--sort", metavar="NAME", help="column to sort by; --sort=-mIoU: largest first")
    add("--group", metavar="FIELD", help="one table for each value of a field, such as backbone")
    add("--where", action="append", type=_pair, default=[], metavar="FIELD=VALUE",
        help="only these rows")  # fmt: skip
    add("--ignore", type=_names, default=[], metavar="FIELDS",
        help="fields (commit,versions) that do not keep seeds apart")  # fmt: skip
    add("--formats", type=_names, default="csv,md,tex,png,svg,html",
        help="what to write (default: %(default)s)")  # fmt: skip
    add("--published", type=Path, help="folder or published.csv with figures to compare with")
    add("--no-published", action="store_true", help="leave published figures out")
    add("--version", action="version", version=f"stepseg {__version__}")
    return parser


def _names(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r}: write FIELD=VALUE, such as data=camvid")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
