"""The W&B workspace: built and serialised without network; refusals that say what to do."""

import json
import re

import pytest

from stepseg.cli.dashboard import main
from stepseg.lit.tracking.dashboard import SYSTEMS, build_workspace
from stepseg.lit.tracking.final import final_figures


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture(scope="module")
def sections():
    return {section.name: section.panels for section in build_workspace("me", "stepseg").sections}


def test_accuracy_is_plotted_against_cost(sections):
    plots = [p for p in sections["Accuracy and cost"] if type(p).__name__ == "ScatterPlot"]
    axes = [(plot.x.name, plot.y.name) for plot in plots]
    assert ("final/gmacs", "final/mIoU") in axes
    assert ("final/images_per_s", "final/mIoU") in axes
    assert ("final/STEP/gmacs", "final/STEP/mIoU") in axes


def test_systems_are_found_however_their_rows_were_typed():
    rows = {"none": {"mIoU": 40.0}, "dcts": {"mIoU": 39.0}, "step@2": {"mIoU": 38.0}}
    figures = final_figures(rows)
    assert {name: figures[f"final/{name}/mIoU"] for name in SYSTEMS} == {
        "dense": 40.0, "dCTS": 39.0, "STEP": 38.0
    }  # fmt: skip
    placements = final_figures({**rows, "step@2+4": {"mIoU": 37.0}})
    assert placements["final/step@2/mIoU"] == 38.0
    assert placements["final/step@2+4/mIoU"] == placements["final/mIoU"] == 37.0
    assert "final/STEP/mIoU" not in placements


@pytest.mark.parametrize(
    ("section", "metric"),
    [
        ("Where tokens go", "val/tokens_stage_2"),
        ("Where tokens go", "train/superpatches_4x4"),
        ("Validation", "val/mIoU"),
        ("Validation", "val/AP_8x8"),
        ("Training", "train/loss"),
        ("Training", "train/exit_head_6/dice"),
        ("Training", "lr/backbone"),
    ],
)
def test_curves_catch_the_names_that_training_logs(sections, section, metric):
    curves = [panel for panel in sections[section] if type(panel).__name__ == "LinePlot"]
    named = any(metric in curve.y for curve in curves)
    assert named or any(
        curve.metric_regex and re.fullmatch(curve.metric_regex, metric) for curve in curves
    )


def test_tables_and_pictures_are_there(sections):
    (browser,) = sections["Pictures"]
    assert browser.media_keys == ["val/pictures"]
    names = [getattr(panel, "table_name", None) for panel in sections["Validation"]]
    assert "val/per_class_IoU" in names


def test_dry_run_prints_what_would_be_saved(capsys):
    assert main(["--entity", "me", "--project", "street", "--dry-run"]) == 0
    stored = json.loads(capsys.readouterr().out)
    assert (stored["entity"], stored["project"], stored["displayName"]) == ("me", "street", "STEP")
    bank = stored["spec"]["section"]["panelBankConfig"]["sections"]
    panels = {section["name"]: len(section["panels"]) for section in bank}
    assert panels["Accuracy and cost"] == 7
    assert panels["Pictures"] == 1


def test_saving_without_a_key_says_what_to_do(capsys):
    assert main(["--entity", "me"]) == 1
    assert "wandb login" in capsys.readouterr().err


def test_without_the_extra_it_is_named(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.reports.v2", None)
    assert main(["--entity", "me", "--dry-run"]) == 1
    assert "stepseg[dashboard]" in capsys.readouterr().err
