import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from run_results import EXIT, MERGE, accuracy_row, evaluation, training
from stepseg.report.rows import rows_of_runs
from stepseg.report.runs import Run
from stepseg.report.summaries import summarise
from stepseg.report.tables import Cell, Grid, check_names, grid_of_arena, statistics_grid
from stepseg.report.writers import (
    escape_latex,
    rows_to_csv,
    screen_table,
    to_csv,
    to_latex,
    to_markdown,
)

SYSTEMS = [(None, None), (MERGE, None), (MERGE, {**EXIT, "blocks": [8]}), (MERGE, EXIT)]


@pytest.fixture(scope="module")
def rows():
    values = [training(0), training(1)]
    for seed in (0, 1):
        entries = [
            accuracy_row(30.0 + i + 2 * seed, 6.0 - i, merge, leave)
            for i, (merge, leave) in enumerate(SYSTEMS)
        ]
        values.append(evaluation(entries, seed))
    return rows_of_runs([Run(Path(f"run{i}/result.json"), v) for i, v in enumerate(values)])[0]


@pytest.fixture(scope="module")
def arena(rows):
    (arena,), _ = summarise(rows)
    return arena


def column(grid, key):
    return [row[grid.keys.index(key)].text for row in grid.rows]


def test_columns_that_say_something_are_there(arena):
    (grid,) = grid_of_arena(arena)
    # no commit, no device: they do not differ; no images/s: nobody has them
    assert grid.keys == (
        "system", "seeds", "mIoU", "aAcc", "gmacs", "tokens_in", "tokens_out", "front",
    )  # fmt: skip
    assert column(grid, "mIoU") == ["31.00 ± 1.41", "32.00 ± 1.41", "34.00 ± 1.41", "33.00 ± 1.41"]
    assert column(grid, "seeds") == ["2"] * 4
    # the last system has the highest mIoU and the lowest cost of the made-up figures
    assert column(grid, "front") == ["", "", "yes", ""]
    assert column(grid, "system")[2] == "STEP@[6,8] τ-6899"


def test_select_sort_and_group(arena):
    (grid,) = grid_of_arena(arena, columns=["exit_blocks", "gmacs", "peak_memory_mb"], sort="gmacs")
    assert [row[grid.keys.index("gmacs")].value for row in grid.rows] == [3.0, 4.0, 5.0, 6.0]
    assert column(grid, "peak_memory_mb") == ["-"] * 4
    (grid,) = grid_of_arena(arena, sort="-mIoU")
    assert column(grid, "mIoU")[0].startswith("34.00")
    grids = grid_of_arena(arena, group="exit_blocks")
    assert [len(grid.rows) for grid in grids] == [2, 1, 1]
    assert [grid.title.rpartition("; ")[2] for grid in grids] == [
        "exit_blocks -", "exit_blocks 6, 8", "exit_blocks 8",
    ]  # fmt: skip


def test_rows_without_the_figure_come_last_in_either_order(arena):
    for sort in ("exit_threshold", "-exit_threshold"):
        (grid,) = grid_of_arena(arena, columns=["exit_threshold"], sort=sort)
        assert column(grid, "exit_threshold") == ["0.9", "0.9", "-", "-"]


def test_unknown_columns_are_refused(arena):
    check_names(["mIoU", "commit", "seeds"], [arena])
    with pytest.raises(ValueError, match=r"unknown column 'miou'; known: .*mIoU"):
        check_names(["miou"], [arena])


def test_csv_reads_back_in_full_precision(arena):
    lines = list(csv.DictReader(io.StringIO(to_csv(grid_of_arena(arena)))))
    assert [float(line["mIoU"]) for line in lines] == [31.0, 32.0, 34.0, 33.0]
    assert float(lines[0]["mIoU_std"]) == pytest.approx(2**0.5)
    assert lines[2]["system"] == "STEP@[6,8] τ-6899"


def test_csv_of_rows_has_every_row_unaveraged(rows):
    lines = list(csv.DictReader(io.StringIO(rows_to_csv(rows))))
    assert [(line["seed"], float(line["mIoU"])) for line in lines] == [
        (str(seed), 30.0 + i + 2 * seed) for seed in (0, 1) for i in range(4)
    ]
    assert lines[-1]["exit_blocks"] == "6, 8"
    assert float(lines[-1]["superpatches_2"]) == 72


def test_markdown_keeps_its_columns():
    cells = (Cell("a|b_c *d*"), Cell("1.0"))
    grid = Grid("T <x>", ("a", "b"), ("name", "number"), (False, True), (cells,))
    assert to_markdown([grid]) == (
        "## T &lt;x>\n\n| name | number |\n| --- | ---: |\n| a\\|b_c \\*d\\* | 1.0 |\n"
    )


def test_latex_escapes_everything_special():
    text = "50 % & #1_a {x} $y ~ ^ \\ [8] τ-6899 ± <"
    assert escape_latex(text) == (
        r"50 \% \& \#1\_a \{x\} \$y \textasciitilde{} \textasciicircum{} "
        r"\textbackslash{} [8] $\tau$-6899 $\pm$ \textless{}"
    )


def test_latex_table_is_whole(arena):
    text = to_latex(grid_of_arena(arena))
    assert text.count(r"\begin{tabular}{lrrrrrrl}") == 1
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 1
    body = text.split("\\midrule\n")[1].split("    \\bottomrule")[0].splitlines()
    assert len(body) == 4
    for line in body:
        assert line.endswith(r"\\")
        assert line.count(" & ") == 7
        assert not line.lstrip().startswith("[")
    assert r"31.00 $\pm$ 1.41" in body[0]


def test_the_screen_shows_brackets(arena):
    console = Console(width=150, file=io.StringIO(), record=True)
    console.print(screen_table(grid_of_arena(arena)[0]))
    assert "STEP@[6,8] τ-6899" in console.export_text()


def test_counts_by_size_and_head(arena):
    grid = statistics_grid(arena)
    assert grid.keys == (
        "line", "superpatches_1", "superpatches_2", "superpatches_4", "exited_1", "exited_2",
    )  # fmt: skip
    by_line = {row[0].text: [cell.value for cell in row[1:]] for row in grid.rows}
    assert by_line["STEP@[6,8] τ-6899"] == [402, 72, 0, 54, 64]
    assert by_line["STEP@[8] τ-6899"] == [402, 72, 0, 54, None]


def test_least_and_greatest_stand_beside_the_mean():
    ends = {
        "superpatches_min": {"1": 300.0, "2": 50.0, "4": 0.0},
        "superpatches_max": {"1": 500.0, "2": 80.0, "4": 2.0},
        "exited_until_min": [10.0],
        "exited_until_max": [99.0],
    }
    entry = accuracy_row(66.0, 5.0, MERGE, {**EXIT, "blocks": [8]}, **ends)
    rows, _ = rows_of_runs([Run(Path("r/result.json"), evaluation([entry]))])
    [arena] = summarise(rows)[0]
    [row] = statistics_grid(arena).rows
    assert [cell.text for cell in row[1:]] == [
        "402.0 (300 to 500)", "72.0 (50 to 80)", "0.0 (0 to 2)", "54.0 (10 to 99)",
    ]  # fmt: skip
