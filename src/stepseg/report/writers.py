"""Tables as text: CSV, Markdown, LaTeX (booktabs), and for the screen."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from stepseg.files.markdown import escape, table
from stepseg.files.spreadsheet import csv_text
from stepseg.report.rows import Row
from stepseg.report.summaries import show
from stepseg.report.tables import Grid

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    "±": r"$\pm$", "τ": r"$\tau$", "θ": r"$\theta$", "×": r"$\times$", "–": "--",
}  # fmt: skip


def screen_table(grid: Grid) -> Table:
    """For the terminal."""
    shown = Table(title=grid.title, box=SIMPLE, title_justify="left", title_style="bold")
    for head, numeric in zip(grid.heads, grid.numeric, strict=True):
        shown.add_column(head, justify="right" if numeric else "left", overflow="fold")
    for row in grid.rows:
        shown.add_row(*(cell.text.replace("[", r"\[") for cell in row))
    return shown


def to_csv(grids: Sequence[Grid]) -> str:
    """All tables in one, with a column for the table's title and one per deviation over seeds."""
    keys: list[str] = ["table_title"]
    lines: list[dict[str, object]] = []
    for grid in grids:
        for row in grid.rows:
            line: dict[str, object] = {"table_title": grid.title}
            for key, cell in zip(grid.keys, row, strict=True):
                line[key] = "" if cell.value is None else cell.value
                if cell.std is not None:
                    line[f"{key}_std"] = cell.std
            lines.append(line)
        for key in (k for line in lines for k in line):
            if key not in keys:
                keys.append(key)
    return csv_text(keys, lines)


def rows_to_csv(rows: Sequence[Row]) -> str:
    """Every row as it was measured: no averaging, all fields."""
    lines = []
    for row in rows:
        line: dict[str, object] = {"run": str(row.run.path), "name": row.name, "seed": row.seed}
        line |= {name: show(value) for name, value in row.fields.items()}
        line |= row.figures
        line["tokens_per_stage"] = " ".join(f"{t:g}" for t in row.tokens)
        line |= {f"superpatches_{side}": n for side, n in row.superpatches.items()}
        line |= {f"gmacs.{part}": n for part, n in row.parts.items()}
        lines.append(line)
    return csv_text(list(dict.fromkeys(key for line in lines for key in line)), lines)


def to_markdown(grids: Sequence[Grid]) -> str:
    """Tables under headings."""
    return "\n".join(f"## {escape(grid.title)}\n\n{_markdown(grid)}\n" for grid in grids)


def to_latex(grids: Sequence[Grid]) -> str:
    r"""Tables for ``\usepackage{booktabs}``, UTF-8."""
    return "\n".join(_latex(grid) for grid in grids)


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(LATEX.get(character, character) for character in text)


def _markdown(grid: Grid) -> str:
    lines = [grid.heads, *([cell.text for cell in row] for row in grid.rows)]
    return table(lines, grid.numeric)


def _latex(grid: Grid) -> str:
    align = "".join("r" if numeric else "l" for numeric in grid.numeric)
    # a row that began with [ would be taken for the option of the \\ before it
    lines = [[escape_latex(cell.text) for cell in row] for row in grid.rows]
    body = "".join("    {}" + " & ".join(line) + " \\\\\n" for line in lines)
    heads = " & ".join(map(escape_latex, grid.heads))
    return (
        "\\begin{table}\n  \\centering\n"
        f"  \\caption{{{escape_latex(grid.title)}}}\n"
        f"  \\begin{{tabular}}{{{align}}}\n    \\toprule\n    {heads} \\\\\n    \\midrule\n"
        f"{body}    \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n"
    )
