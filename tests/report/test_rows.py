from pathlib import Path

import pytest

from run_results import EXIT, MERGE, accuracy_row, benchmark, benchmark_row, evaluation, training
from stepseg.report.rows import rows_of_runs
from stepseg.report.runs import Run
from stepseg.report.systems import system_of


def rows_of(*values):
    runs = [Run(Path(f"run{i}/result.json"), v) for i, v in enumerate(values)]
    return rows_of_runs(runs)


def merge(**changes):
    return {"merge": {**MERGE, **changes}, "exit": None}


@pytest.mark.parametrize(
    ("reduction", "name"),
    [
        ({}, "dense"),
        ({"merge": None, "exit": {**EXIT, "blocks": []}}, "dense"),
        (merge(), "dCTS τ-6899"),
        (merge(thresholds=[0.4, 0.9, 0.9, 0.9]), "dCTS τ-4999"),
        (merge(windows=[2, 4], thresholds=[0.45, 0.9]), "dCTS 2x2 τ=0.45, 4x4 τ=0.9"),
        (merge(windows=[2], thresholds=[0.4]), "dCTS 2x2 τ=0.4"),
        (merge(thresholds=[0.4, 1.0, 1.0, 1.0]), "dCTS 2x2 τ=0.4"),
        (merge(windows=[2], thresholds=None, top_k=103), "CTS"),
        ({"merge": None, "exit": EXIT}, "DToP@[6,8]"),
        ({"merge": MERGE, "exit": EXIT}, "STEP@[6,8] τ-6899"),
        (merge(windows=[2], thresholds=None, top_k=103) | {"exit": EXIT}, "CTS & DToP@[6,8]"),
    ],
)  # fmt: skip
def test_names_of_systems(reduction, name):
    assert str(system_of(reduction)) == name


def test_rows_of_an_evaluation():
    (row,), problems = rows_of(evaluation([accuracy_row(34.2, 3.46, MERGE, EXIT)]))
    assert problems == []
    assert str(row.system) == "STEP@[6,8] τ-6899"
    assert row.fields["exit_blocks"] == (6, 8)
    assert row.fields["merge_thresholds"] == (0.6, 0.8, 0.9, 0.9)
    arena = dict(row.arena)
    assert (arena["data"], arena["classes"], arena["images"]) == ("camvid", 3, 24)
    assert arena["resolution"] == "690 patches"
    assert row.figures["tokens_in"] == 454
    assert row.figures["exited_percent"] == pytest.approx(100 * 64 / 454)


def test_weights_bring_backbone_recipe_and_seed_of_their_training():
    rows, _ = rows_of(training(seed=3), evaluation([accuracy_row(34.2, 3.46)], seed=3))
    (row,) = rows
    assert row.seed == "3"
    assert row.fields["backbone"] == "vit_tiny"
    assert row.fields["train.optim.lr"] == 0.001
    assert "checkpoint" not in row.fields


def test_weights_of_unknown_training_are_told_apart_by_their_file():
    (row,), _ = rows_of(evaluation([accuracy_row(34.2, 3.46)], seed=3))
    assert row.fields["checkpoint"] == "weights/0.001/3/checkpoints/best.ckpt"
    model = {"backbone": {"name": "vit_tiny", "depth": 6}, "policy": {"name": "lcnet_050"}}
    (row,), _ = rows_of(evaluation([accuracy_row(34.2, 3.46)], seed=3, model=model))
    assert (row.fields["backbone"], row.fields["policy"]) == ("vit_tiny, 6 blocks", "lcnet_050")


def test_the_rows_after_a_training_take_their_reduction_from_names():
    names = ("dense", "dCTS", "STEP@[6,8]")
    entries = [{**accuracy_row(30.0, 3.0), "name": name, "reduction": None} for name in names]
    rows, _ = rows_of(training(rows=entries))
    assert [str(r.system) for r in rows] == ["dense", "dCTS τ-6899", "STEP@[6,8] τ-6899"]
    numbers = {"name": "cts_dtop", "merge": {"windows": [2], "top_k": 103}, "exit": EXIT}
    for entry, name in zip(entries, ("dense", "CTS", "CTS & DToP@[6,8]"), strict=True):
        entry["name"] = name
    values = training(rows=entries)
    values["config"] = {**values["config"], "reduction": numbers}
    rows, _ = rows_of(values)
    assert [str(r.system) for r in rows] == ["dense", "CTS", "CTS & DToP@[6,8]"]
    inside = {"name": "algm_exit", "inside": {"rule": "algm", "threshold": 0.88}, "exit": EXIT}
    for entry, name in zip(entries, ("dense", "ALGM", "ALGM@[6,8]"), strict=True):
        entry |= {"name": name, "exit_blocks": EXIT["blocks"] if "@" in name else None}
    values["config"] = {**values["config"], "reduction": inside}
    rows, _ = rows_of(values)
    found = [str(r.system) for r in rows]
    assert found == ["dense", "ALGM threshold=0.88", "ALGM@[6,8] threshold=0.88"]


def test_plain_columns_of_a_grid_are_read():
    entry = accuracy_row(30.0, 3.0)
    del entry["reduction"]
    entry |= {"merge_windows": [2], "merge_thresholds": [0.3], "top_k": None}
    entry |= {"exit_blocks": [4], "exit_threshold": 0.7, "exit_rule": "uniform"}
    (row,), _ = rows_of(evaluation([entry]))
    assert str(row.system) == "STEP@[4] 2x2 τ=0.3"
    assert (row.fields["exit_rule"], row.fields["exit_threshold"]) == ("uniform", 0.7)


def test_a_random_rule_has_a_seed_of_its_own():
    leave, merge = {**EXIT, "rule": "random", "seed": 7}, {**MERGE, "by": "random", "seed": 5}
    entries = [accuracy_row(30.0, 3.0, None, leave), accuracy_row(30.0, 3.0, merge)]
    rows, _ = rows_of(evaluation(entries))
    assert [row.seed for row in rows] == ["0/7", "0/5"]


def test_sliding_windows_count_per_view():
    protocol = {"mode": "slide", "crop": [160, 160], "stride": [100, 100]}
    # 6.9 crops of 10 x 10 patches
    (row,), _ = rows_of(evaluation([accuracy_row(30.0, 69.0, protocol=protocol)]))
    assert row.figures["views"] == pytest.approx(6.9)
    assert row.tokens == (pytest.approx(100.0),)
    assert dict(row.arena)["resolution"] == "160"


def slide(tokens, cell=None, **changes):
    """A row of two windows of 64 x 64."""
    protocol = {"mode": "slide", "crop": [64, 64], "stride": [42, 42]}
    counts = {"1": tokens, "2": 0.0}
    row = accuracy_row(30.0, 1.0, protocol=protocol, superpatches=counts)
    row["reduction"]["input"] = {"cell": cell}
    return row | {"tokens_per_stage": [tokens], "superpatches_min": counts} | changes


def test_windows_of_a_smaller_input_hold_fewer_patches():
    maxima = {"superpatches_max": {"1": 18.0, "2": 0.0}}
    rows, _ = rows_of(evaluation([slide(32.0), slide(18.0, 24, **maxima)]))
    assert [row.figures["views"] for row in rows] == [2.0, 2.0]
    assert [row.tokens for row in rows] == [(16.0,), (9.0,)]
    assert [row.superpatches[1] for row in rows] == [16.0, 9.0]
    assert rows[1].extremes["superpatches_1"] == (9.0, 9.0)
    assert rows[0].arena == rows[1].arena


def test_windows_of_larger_patches_hold_fewer():
    model = {"backbone": {"name": "vit_base", "patch_size": 32}}
    (row,), _ = rows_of(evaluation([slide(8.0)], model=model))
    assert (row.figures["views"], row.tokens) == (2.0, (4.0,))


def test_a_smaller_input_is_of_images_of_the_same_size():
    values = evaluation([accuracy_row(30.0, 3.0), accuracy_row(29.0, 2.0)])
    values["config"] = values["config"] | {"data": {"name": "synthetic", "image_size": [64, 96]}}
    for row, cell, tokens in zip(values["rows"], (None, 24), (24.0, 12.0), strict=True):
        row["reduction"]["input"] = {"cell": cell}
        row["superpatches"] = {"1": tokens}
    rows, _ = rows_of(values)
    assert [dict(row.arena)["resolution"] for row in rows] == ["64 x 96"] * 2


def test_missing_and_infinite_figures_are_no_figures():
    entry = accuracy_row(None, float("nan"))
    del entry["superpatches"], entry["per_class_IoU"], entry["tokens_per_stage"]
    (row,), problems = rows_of(evaluation([entry]))
    assert problems == []
    assert "mIoU" not in row.figures
    assert "gmacs" not in row.figures


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": "many"}, "'rows' is no list"),
        ({"rows": [accuracy_row("good", 3.0)]}, "mIoU is 'good', not a number"),
        ({"rows": [accuracy_row(True, 3.0)]}, "mIoU is True"),
        ({"rows": [{**accuracy_row(1.0, 3.0), "tokens_per_stage": 5}]}, "not a list"),
    ],
)
def test_rows_that_do_not_fit_are_a_problem_with_a_path(changes, message):
    rows, (problem,) = rows_of({**evaluation([]), **changes})
    assert rows == []
    assert str(problem.path) == "run0/result.json"
    assert message in problem.message


def test_rows_of_a_benchmark():
    rows, _ = rows_of(benchmark())
    # counts were prescribed: no threshold decided anything, so none is named
    assert [str(r.system) for r in rows] == ["dense", "dCTS", "STEP@[6,8]"]
    assert rows[2].fields["exit_blocks"] == (6, 8)
    assert rows[2].fields.get("exit_threshold") is None
    assert dict(rows[0].arena)["hardware"] == "a machine"
    measured = benchmark_row("dcts", 70.0, 16.0, [])
    measured["protocol"]["tokens"] = "measured"
    (row,), _ = rows_of(benchmark([measured]))
    assert str(row.system) == "dCTS τ-6899"


def test_a_row_of_a_benchmark_says_what_was_reduced():
    """A file among the systems, a checkpoint's own thresholds and a budget are in no `systems`."""
    own = {"merge": {**MERGE, "thresholds": [0.4, 0.9, 0.9, 0.9]}, "exit": EXIT}
    own |= {"inside": None, "input": {"cell": None}, "budget": {"gmacs_per_image": 60}}
    entry = benchmark_row("tuned/reduction.yaml", 59.0, 18.0, [8], reduction=own)
    entry["protocol"]["tokens"] = "measured"
    (row,), problems = rows_of(benchmark([entry]))
    assert (str(row.system), problems) == ("STEP@[8] τ-4999 at most 60 GMACs", [])


def test_an_unknown_system_of_a_benchmark():
    _, (problem,) = rows_of(benchmark([benchmark_row("magic", 1.0, 1.0, [])]))
    assert "'magic' names no system" in problem.message
