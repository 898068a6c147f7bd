"""`stepseg-eval` over grids: rows, tables, and going on where a killed one stopped."""

import csv
import json
from pathlib import Path

import pytest
import torch

from commands import compose_config, run_command, write_camvid
from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint import KEY, describe
from stepseg.cli.evaluate.job import evaluate
from stepseg.data.specs import get_spec
from stepseg.evaluation import Evaluator

MODEL = {
    "num_classes": 11,
    "backbone": {"name": "vit_tiny", "depth": 4},
    "policy": {"name": "lcnet_050", "windows": [2, 4]},
    "reduction": {
        "merge": {"windows": [2, 4], "thresholds": [0.5, 0.5]},
        "exit": {"blocks": [1, 3], "threshold": 0.3},
    },
}
GRID = [
    "sweep.merge_threshold_2=[0.45,0.55]", "sweep.exit_blocks=[[1],[1,3]]",
    "sweep.exit_thresholds=[0.2,0.3]",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"), train=1, val=5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights are enough to be evaluated."""
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "best.ckpt", seed=0)


def write_checkpoint(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = ModelConfig.from_dict(MODEL)
    state = build_segmenter(config).state_dict()
    entry = {KEY: describe(config, get_spec("camvid"))}
    torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}, **entry}, path)
    return path


@pytest.fixture
def run(checkpoint, data):
    """Evaluate into a folder; returns `result.json`."""

    def evaluate_into(output: Path, *overrides: str) -> dict:
        evaluate(compose_config("eval", [*common(checkpoint, data), *overrides], output))
        return json.loads((output / "result.json").read_text())

    return evaluate_into


def common(checkpoint: Path, data: Path) -> list[str]:
    return [
        f"ckpt_path={checkpoint}", "data=camvid", f"data.root={data}", "data.num_workers=0",
        "data.val_batch_size=1",
    ]  # fmt: skip


@pytest.fixture
def updates(monkeypatch):
    """The number of points in every batch that is evaluated; `stop_at` interrupts."""
    seen: list[int] = []
    update = Evaluator.update

    def count(self, *arguments):
        if len(seen) == stop.at:
            raise KeyboardInterrupt
        seen.append(len(self.reductions))
        return update(self, *arguments)

    class stop:  # noqa: N801
        at = -1

    monkeypatch.setattr(Evaluator, "update", count)
    count.stop, count.seen = stop, seen
    return count


def test_rows_tell_their_reduction_and_equal_single_runs(run, tmp_path, capsys):
    result = run(tmp_path / "grid", *GRID)
    rows = result["rows"]
    assert [row["name"] for row in rows[:2]] == [
        "merge.threshold_2=0.45 exit.blocks=1 exit.threshold=0.2",
        "merge.threshold_2=0.45 exit.blocks=1 exit.threshold=0.3",
    ]
    assert len(rows) == 8
    assert result["grid"]["points"] == 8
    assert result["mIoU"] == rows[-1]["mIoU"]
    last = rows[-1]
    assert last["merge_thresholds"] == [0.55, 0.5]
    assert (last["exit_blocks"], last["exit_threshold"], last["exit_rule"]) == (
        [1, 3], 0.3, "confidence",
    )  # fmt: skip
    alone = run(
        tmp_path / "one", "reduction.merge.thresholds=[0.55,0.5]", "reduction.exit.threshold=0.3"
    )
    for key in ("mIoU", "per_class_IoU", "gmacs_by_part", "tokens_per_stage", "superpatches"):
        assert last[key] == alone[key]
    shown = capsys.readouterr().out
    assert shown.count("*") > 1
    assert "merge_threshold_2" in shown


def test_flat_table(run, tmp_path):
    rows = run(tmp_path, *GRID)["rows"]
    with open(tmp_path / "results.csv") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["mIoU"]) for line in lines] == [row["mIoU"] for row in rows]
    assert [line["exit_blocks"] for line in lines[1:3]] == ["1", "1 3"]
    assert (lines[-1]["merge_threshold_2"], lines[-1]["merge_threshold_4"]) == ("0.55", "0.5")
    assert float(lines[-1]["tokens_stage_3"]) == rows[-1]["tokens_per_stage"][2]
    assert lines[0]["tokens_stage_3"] == ""
    assert float(lines[0]["ece_2x2"]) == rows[0]["policy_calibration"]["2"]["ece"]
    assert float(lines[0]["IoU_road"]) == rows[0]["per_class_IoU"][3]
    assert [line["pareto"] for line in lines] == [str(row["pareto"]) for row in rows]


def test_an_interrupted_grid_goes_on(run, updates, tmp_path, checkpoint, data):
    whole = run(tmp_path / "whole", *GRID)
    updates.seen.clear()
    updates.stop.at = 3
    options = [*GRID, "grid.snapshot_seconds=0"]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path / "grid", *options)
    result = json.loads((tmp_path / "grid" / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert "mIoU" not in result
    updates.stop.at = -1
    updates.seen.clear()
    resumed = run(tmp_path / "grid", *options)
    assert updates.seen == [8, 8]
    assert resumed["grid"]["reused_images"] == 3
    assert resumed["rows"] == whole["rows"]
    assert [file.name for file in (tmp_path / "grid" / "grid").iterdir()] == ["rows.json"]


@pytest.mark.slow  # two processes
def test_two_processes_go_on_where_one_was_interrupted(run, updates, tmp_path, checkpoint, data):
    whole = run(tmp_path / "whole", *GRID)
    updates.seen.clear()
    updates.stop.at = 2
    options = [*GRID, "grid.snapshot_seconds=0"]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path / "grid", *options)
    resumed = run_command(
        "evaluate", *common(checkpoint, data), *options, "trainer=ddp_cpu",
        output=tmp_path / "grid",
    )  # fmt: skip
    assert resumed["grid"]["reused_images"] == 2
    for ours, theirs in zip(resumed["rows"], whole["rows"], strict=True):
        assert ours["images"] == 5
        for key in ("mIoU", "aAcc", "gmacs_mean", "gmacs_std", "tokens_mean"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-6)


def test_a_grid_may_grow_and_is_evaluated_in_passes(run, updates, tmp_path):
    small = [*GRID[:2], "sweep.exit_thresholds=[0.3]"]
    first = run(tmp_path, *small, "grid.points_per_pass=3")
    assert updates.seen == [3] * 5 + [1] * 5
    updates.seen.clear()
    grown = run(tmp_path, *GRID)
    assert updates.seen == [4] * 5
    assert grown["grid"]["reused_rows"] == 4
    plain = [{k: v for k, v in row.items() if k != "pareto"} for row in grown["rows"][1::2]]
    assert plain == [{k: v for k, v in r.items() if k != "pareto"} for r in first["rows"]]
    updates.seen.clear()
    assert run(tmp_path, *GRID)["rows"] == grown["rows"]
    assert updates.seen == []


def test_rows_of_something_else_are_refused(run, tmp_path):
    run(tmp_path / "grid")
    with pytest.raises(ValueError, match=r"grid with another protocol: .*hydra.run.dir"):
        run(tmp_path / "grid", "+data.evaluation.resize_short=32")
    other = write_checkpoint(tmp_path / "other.ckpt", seed=1)
    with pytest.raises(ValueError, match="grid with another checkpoint"):
        run(tmp_path / "grid", f"ckpt_path={other}")
    with pytest.raises(ValueError, match="grid with another precision"):
        run(tmp_path / "grid", "trainer.precision=bf16-mixed")
    run(tmp_path / "short", "+trainer.limit_test_batches=1")
    with pytest.raises(ValueError, match="grid with another limit of images"):
        run(tmp_path / "short")


def test_bad_points_are_refused_before_data_are_read(run, tmp_path):
    with pytest.raises(ValueError, match="impossible points") as error:
        run(
            tmp_path, "data.root=/nowhere", "sweep.merge_threshold_2=[0.5,1.5]",
            "sweep.exit_blocks=[[1],[2]]",
        )  # fmt: skip
    assert "sweep.merge_threshold_2=1.5: merge thresholds are probabilities" in str(error.value)
    assert "sweep.exit_blocks=2: no exit head after block(s) [2]" in str(error.value)


def test_every_point_saves_its_maps(run, tmp_path):
    run(tmp_path, "sweep.exit_thresholds=[0.2,0.3]", "save_predictions=true")
    for folder in ("000", "001"):
        assert len(list((tmp_path / "predictions" / folder).glob("*.png"))) == 5
