import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from run_results import EXIT, MERGE, accuracy_row, benchmark, evaluation, training, write
from stepseg.cli.report import _parser, main

ROWS = [
    accuracy_row(33.0, 6.0),
    accuracy_row(34.0, 4.0, MERGE),
    accuracy_row(35.0, 3.0, MERGE, EXIT),
]


def test_a_sweep_with_a_folder_per_job(tmp_path, capsys):
    for seed in (0, 1):
        write(tmp_path / f"train/{seed}", training(seed))
        for index, row in enumerate(ROWS):
            row = {**row, "mIoU": row["mIoU"] + seed}
            write(tmp_path / f"eval/{seed}{index}", evaluation([row], seed))
    write(tmp_path / "bench", benchmark())
    assert main([str(tmp_path)]) == 0
    out = tmp_path / "report"
    names = {path.name for path in out.iterdir()}
    assert names == {"index.html", "rows.csv", "table.csv", "table.md", "table.tex", "plots"}
    assert (out / "plots/01-accuracy-cost.png").is_file()
    assert (out / "plots/01-accuracy-cost.svg").is_file()
    shown = capsys.readouterr().out
    assert "35.50 ± 0.71" in shown
    assert "Published figures beside ours" in shown
    assert "108.38" in shown
    # its own files are no results, so that a second report is the same
    assert main([str(tmp_path), "--formats", "md", "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/table.md").read_text() == (out / "table.md").read_text()
    assert not (tmp_path / "again/plots").exists()


def test_options(tmp_path, capsys):
    write(tmp_path, evaluation(ROWS))
    arguments = ["--formats", "csv", "--columns", "exit_blocks,mIoU", "--sort=-mIoU"]
    assert main([str(tmp_path), *arguments, "--where", "resize=bilinear"]) == 0
    lines = (tmp_path / "report/table.csv").read_text().splitlines()
    assert lines[0].startswith("table_title,system,exit_blocks,mIoU")
    assert "35.0" in lines[1]
    assert "34.0" in lines[2]
    assert "dense" not in "".join(lines[1:3])


def test_what_is_left_out_is_told_by_the_exit_status(tmp_path, capsys):
    write(tmp_path / "good", evaluation(ROWS))
    path = write(tmp_path / "half", '{"status"')
    write(tmp_path / "failed", training(status="failed", error="ValueError: no"))
    assert main([str(tmp_path), "--formats", "md"]) == 3
    printed = capsys.readouterr()
    assert f"left out: {path}: half-written" in printed.err
    assert "failed, ValueError: no" in printed.out
    assert "dense" in printed.out


def test_failed_runs_alone_are_a_report(tmp_path, capsys):
    write(tmp_path, training(status="interrupted"))
    assert main([str(tmp_path), "--formats", "html"]) == 0
    assert "interrupted" in (tmp_path / "report/index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "miou"], "unknown column 'miou'"),
        (["--sort", "beauty"], "unknown column 'beauty'"),
        (["--group", "colour"], "unknown column 'colour'"),
        (["--where", "data=mars"], "no row has it; there is: camvid"),
        (["--where", "planet=mars"], "no such field"),
        (["--ignore", "data"], "never averaged"),
        (["--formats", "pdf"], "unknown format 'pdf'"),
        (["--published", "nowhere"], "no published.csv below nowhere"),
    ],
)
def test_bad_options_are_named(tmp_path, capsys, arguments, message):
    write(tmp_path, evaluation(ROWS))
    assert main([str(tmp_path), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("stepseg-report: error: ")
    assert message in error
    assert not (tmp_path / "report").exists()


def test_a_condition_is_a_pair(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["runs", "--where", "camvid"])
    assert "'camvid': write FIELD=VALUE" in capsys.readouterr().err


def test_nothing_to_report(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert f"no result.json below {tmp_path}" in capsys.readouterr().err
    path = write(tmp_path, "[]")
    assert main([str(tmp_path)]) == 1
    assert str(path) in capsys.readouterr().err


def test_module_runs(tmp_path):
    command = [sys.executable, "-m", "stepseg.cli.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_documented_commands_and_options_exist():
    text = (Path(__file__).parents[2] / "docs/report.md").read_text(encoding="utf-8")
    commands = re.findall(r"^stepseg-report (.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        _parser().parse_args(shlex.split(command))
    documented = set(re.findall(r"(--[a-z][a-z-]+)\b", text)) | {"--help"}
    options = {o for action in _parser()._actions for o in action.option_strings if o[:2] == "--"}
    assert documented == options - {"--version"}
