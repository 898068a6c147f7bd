"""Short runs: `debug=...`, and trainings that are shorter than their recipe was made for."""

import json
import sys
from copy import deepcopy

import pytest
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import ProgressBar

from commands import SMALL, compose_config, write_camvid
from stepseg.cli.config import plain
from stepseg.cli.train.job import train
from stepseg.cli.train.length import fit_to_length
from stepseg.lit.callbacks.progress import LineProgress, progress
from stepseg.lit.csv_logger import read_rows

OWN = ("trainer.", "optim.warmup_steps", "card=")
TINY = [override for override in SMALL if not override.startswith(OWN)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"), train=4, val=3)


def short(output, data, *overrides):
    cfg = compose_config("train", ["data=camvid", f"data.root={data}", *TINY, *overrides], output)
    train(cfg)
    return json.loads((output / "result.json").read_text())


@pytest.mark.parametrize(
    ("overrides", "told", "kept"),
    [
        (["trainer.max_steps=2"], ["optim.warmup_steps=40", "shortened to 0"], (0, 1, 2)),
        (
            ["trainer.max_steps=100", "optim=eomt"],
            ["optim.warmup_steps=500", "shortened to 3", "optim.encoder_warmup_steps=1000", "to 6"],
            (3, 25, 25),
        ),
        (["trainer.max_steps=30", "trainer.val_check_interval=0.5"], ["to 3"], (3, 15, 25)),
        (
            ["trainer.max_steps=90", "trainer.val_check_interval=99"],
            ["one validation"],
            (40, 90, 25),
        ),
        (
            ["trainer.max_steps=100", "trainer.val_check_interval=0.3"],
            ["the last 10 of 100 batches"],
            (40, 30, 25),
        ),
        (["+trainer.fast_dev_run=true"], ["trainer.fast_dev_run=1"], (0, 1, 1)),
        (["trainer.accumulate_grad_batches=4"], [], (40, 340, 25)),
        (
            ["trainer.max_steps=90", "trainer.accumulate_grad_batches=4"],
            ["the last 8 of 360 batches"],
            (40, 88, 25),  # a quarter are 90 batches, within a step
        ),
    ],
)
def test_the_recipe_is_cut_to_the_length(overrides, told, kept, tmp_path):
    values = plain(compose_config("train", overrides, tmp_path))
    record = deepcopy(values)
    lines = " ".join(fit_to_length(values, record))
    assert all(part in lines for part in told)
    assert bool(lines) == bool(told)
    trainer, warmup = values["trainer"], values["optim"]["warmup_steps"]
    assert (warmup, trainer["val_check_interval"], trainer["log_every_n_steps"]) == kept
    assert record == values


def test_a_validation_within_a_step_is_refused(tmp_path):
    """What is saved there has lost half a gradient."""
    typed = ["trainer.accumulate_grad_batches=4", "trainer.val_check_interval=10"]
    values = plain(compose_config("train", typed, tmp_path))
    with pytest.raises(ValueError, match=r"a multiple, such as 12"):
        fit_to_length(values)


def test_fast_dev_run_goes_through_to_the_table(data, tmp_path, capsys):
    result = short(tmp_path, data, "debug=fdr")
    assert (result["status"], result["steps"], result["images"]) == ("completed", 1, 1)
    assert [row["name"] for row in result["rows"]] == ["dense", "dCTS", "STEP@[2,4]"]
    assert not {"checkpoints", "csv", "pictures"} & {path.name for path in tmp_path.iterdir()}
    assert "STEP@[2,4]" in capsys.readouterr().out


def test_limit_is_all_of_a_run_in_short(data, tmp_path):
    result = short(tmp_path, data, "debug=limit", "trainer.max_steps=2")
    assert (result["steps"], result["images"]) == (2, 2)
    assert (tmp_path / "checkpoints" / "model.safetensors").is_file()


def test_the_profiler_prints(data, tmp_path, capsys):
    short(tmp_path, data, "debug=profiler", "trainer.max_steps=2")
    said = capsys.readouterr().out
    assert "run_training_batch" in said
    assert "BestCheckpoint.on_fit_start" not in said, "what takes no time only hides what does"


def test_overfitting_sees_one_batch_again_and_again(data, tmp_path, recwarn):
    still = ["optim.lr=1e-30", "optim.policy_lr=1e-30", "heads.dropout=0", "backbone.drop_path=0"]
    dense = ["reduction.merge=null", "schedule.exit_from=1", "policy.training=frozen"]
    options = ["trainer.max_steps=3", "trainer.log_every_n_steps=1", *still, *dense]
    short(tmp_path, data, "debug=overfit", *options)
    losses = [row["train/loss"] for row in read_rows(tmp_path / "csv" / "metrics.csv")]
    losses = [float(loss) for loss in losses if loss]
    assert len(losses) == 3
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    assert not [w for w in recwarn if "overfit" in str(w.message) or "interval" in str(w.message)]


def test_a_terminal_is_told_as_much_as_a_file(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = progress()
    assert isinstance(bar, ProgressBar)
    assert not isinstance(bar, LineProgress)
    short(tmp_path, data, "trainer.max_steps=2", "compare=false", "card=false")
    said = capsys.readouterr().err
    for part in (
        f"output  {tmp_path}",
        "device  cpu",
        "4 train, 3 val",
        "M parameters",
        "2/2  mIoU",
    ):
        assert part in said


@pytest.mark.parametrize("command", ["train", "eval", "benchmark", "export", "predict"])
def test_the_log_file_takes_what_is_told(command, tmp_path):
    compose_config(command, [], tmp_path)
    chosen = HydraConfig.get().job_logging
    assert chosen.root.level == "INFO"
    assert chosen.handlers.console.level == "WARNING"  # `tell` speaks there itself
    if command == "predict":  # its folder holds results only
        assert list(chosen.handlers) == ["console"]
    else:
        assert chosen.handlers.file.filename.startswith(str(tmp_path))


@pytest.mark.slow
def test_the_largest_batch_is_found(data, tmp_path, capsys):
    result = short(tmp_path, data, "debug=batch_size", "callbacks.batch_size.trials=2")
    assert result["steps"] == 2
    assert "data.batch_size=2 fits" in "".join(capsys.readouterr())
