"""A confusion matrix as a file, and as a plot of the report."""

import json

import numpy as np
import pytest

from stepseg.files.confusion import read_confusion, write_confusion
from stepseg.report.plots.confusion import MOST, confusion_plot, plots_of_confusion
from stepseg.report.runs import read_run

COUNTS = np.array([[90, 10, 0], [5, 95, 0], [0, 0, 0]])
CLASSES = ["sky, or air", "=road", "lake"]


def test_what_is_written_is_read_again(tmp_path):
    write_confusion(tmp_path / "c.csv", COUNTS, CLASSES)
    names, counts = read_confusion(tmp_path / "c.csv")
    assert (names[0], names[2]) == ("sky, or air", "lake")
    assert counts.tolist() == COUNTS.tolist()


@pytest.mark.parametrize("text", ["", "label,a\n", "label,a,b\na,1,2\n", "label,a\na,x\n", "\x00"])
def test_what_is_none_is_refused(text, tmp_path):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(ValueError, match="is no confusion matrix"):
        read_confusion(tmp_path / "c.csv")


def test_shares_of_the_labels_are_shown(tmp_path):
    plot = confusion_plot(CLASSES, COUNTS, "STEP@[3,4]", "confusion-1")
    shown = {text.get_gid(): text.get_text() for text in plot.figure.axes[0].texts}
    assert shown == {
        "confusion-1-0-0": "90", "confusion-1-0-1": "10", "confusion-1-1-0": "5",
        "confusion-1-1-1": "95",
    }  # fmt: skip
    assert plot.description.startswith("10.0 % of sky, or air is taken for =road; 5.0 %")


def test_of_many_classes_those_that_lose_most():
    many = MOST + 6
    counts = np.eye(many, dtype=int) * 100
    counts[many - 1, 0] = 50
    plot = confusion_plot([f"c{i}" for i in range(many)], counts, "dense", "n")
    names = [label.get_text() for label in plot.figure.axes[0].get_yticklabels()]
    assert len(names) == MOST
    assert names[-1] == f"c{many - 1}"


def test_a_report_finds_it_beside_the_result_and_nowhere_else(tmp_path):
    rows = [{"name": "step", "system": "STEP@[3]", "confusion": "confusion/0.csv"}]
    values = {"status": "completed", "command": "stepseg-eval", "rows": rows}
    (tmp_path / "result.json").write_text(json.dumps(values))
    write_confusion(tmp_path / "confusion" / "0.csv", COUNTS, CLASSES)
    plots, problems = plots_of_confusion([read_run(tmp_path / "result.json")])
    assert [plot.title for plot in plots] == ["Confusion of STEP@[3]"]
    assert problems == []
    rows[0]["confusion"] = "../c.csv"
    (tmp_path / "result.json").write_text(json.dumps(values))
    plots, problems = plots_of_confusion([read_run(tmp_path / "result.json")])
    assert plots == []
    assert "lies elsewhere" in str(problems[0])
