"""Runs in the trackers: which is which, what they hold, and how they end."""

import csv
import os
import socket
import subprocess
import sys

import pytest
import torch
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commands import SMALL, compose_config, start_command, write_camvid
from stepseg.cli.tracking import finished_runs, make_loggers, run_id, run_name
from stepseg.cli.train.job import train
from stepseg.lit.tracking.record import log_config, log_table
from wandb_files import offline_runs


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture(scope="module")
def tracked(data, tmp_path_factory):
    """The output folder of one training with all trackers."""
    output = tmp_path_factory.mktemp("tracked")
    overrides = ["data=camvid", f"data.root={data}", "logger=[wandb,tensorboard]"]
    overrides += ["logger.wandb.mode=offline", "callbacks.pictures.count=2"]
    train(compose_config("train", [*SMALL, *overrides], output))
    return output


def start_run(output, *overrides, error=None):
    """A run that logs one figure."""
    cfg = compose_config("train", ["logger=wandb", *overrides], output)
    with finished_runs():
        loggers = make_loggers(cfg, "train")
        log_config(loggers, {"seed": cfg.seed})
        for logger in loggers:
            logger.log_metrics({"val/mIoU": 40.0}, step=1)
        if error:
            raise error


def test_a_run_says_what_it_is(tracked):
    (run,) = offline_runs(tracked)
    assert (run.project, run.job_type, run.exit_code) == ("stepseg", "train", 0)
    assert run.tags == ["camvid", "vit_tiny", "step"]
    assert run.config["reduction"]["exit"]["threshold"] == 0.3
    assert run.config["versions"]["torch"]
    assert "git_sha" in run.config
    assert run.name.endswith(tracked.name)
    assert run.best["val/mIoU"] == "max"
    assert run.best["val/loss"] == "min"
    assert run.summary["val/mIoU"]["max"] >= run.summary["val/mIoU"]["last"]
    assert wandb.run is None


def test_the_summary_has_every_system(tracked):
    (run,) = offline_runs(tracked)
    for system in ("dense", "dCTS", "STEP"):
        for figure in ("mIoU", "gmacs", "tokens_in", "tokens_out", "images_per_s"):
            assert run.summary[f"final/{system}/{figure}"] >= 0
    assert run.summary["final/mIoU"] == run.summary["final/STEP/mIoU"]
    assert run.summary["final/STEP/exit_blocks"] == [2, 4]
    assert run.summary["final/STEP/exit_threshold"] == 0.3
    assert run.summary["final/STEP/merge_thresholds"] == [0.5, 0.5]
    assert "final/dense/exit_threshold" not in run.summary


def test_pictures_have_masks_and_tables_rows(tracked):
    (run,) = offline_runs(tracked)
    pictures = list((run.media / "images/val").glob("pictures_*.png"))
    assert len(pictures) == 4  # two images at two validations
    for masks in run.summary["val/pictures/all_masks"]:
        assert set(masks) == {"prediction", "ground_truth", "superpatches", "exits"}
        assert all((run.folder / "files" / mask["path"]).is_file() for mask in masks.values())
    assert run.summary["val/per_class_IoU/nrows"] == 11
    assert len(list((tracked / "pictures").glob("step_*/*.png"))) == 4
    with open(tracked / "tables/val_per_class_IoU.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["class"]) for row in rows][::11] == [("2", "sky"), ("4", "sky")]


def test_what_is_told_again_after_a_kill_stands_in_a_table_once(tmp_path):
    for step, score in ((1, 10.0), (2, 20.0), (2, 21.0)):
        log_table([], tmp_path, "val/per_class_IoU", ["class", "IoU"], [["road", score]], step)
    lines = (tmp_path / "tables" / "val_per_class_IoU.csv").read_text().split()
    assert lines == ["step,class,IoU", "1,road,10.0", "2,road,21.0"]


def test_all_loggers_have_the_same_names(tracked):
    (run,) = offline_runs(tracked)
    with open(tracked / "csv/metrics.csv") as file:
        names = set(next(csv.reader(file))) - {"step", "epoch"}
    events = EventAccumulator(str(tracked / "tensorboard")).Reload()
    assert names <= set(events.Tags()["scalars"])
    assert names <= run.keys
    assert {"final/STEP/mIoU", "val/mIoU", "train/loss"} <= names
    assert "val/pictures/0" in events.Tags()["images"]
    assert (tracked / "csv/hparams.yaml").is_file()


def test_jobs_of_a_sweep_share_a_group_and_never_a_run(tmp_path):
    sweep = tmp_path / "thresholds"
    sweep.mkdir()
    (sweep / "multirun.yaml").touch()
    for job in ("0", "1"):
        start_run(sweep / job, f"seed={job}")
    first, second = (offline_runs(sweep / job)[0] for job in ("0", "1"))
    assert first.id != second.id
    assert first.group == second.group == "thresholds"
    assert (first.config["seed"], second.config["seed"]) == (0, 1)
    assert first.name == "seed=0 - 0"


def test_a_resumed_job_continues_its_run_once(tmp_path):
    def identify(output, resumes=None):
        compose_config("train", [], output)
        return run_id(resumes)

    first = identify(tmp_path / "a")
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    assert identify(tmp_path / "a", last) == first
    assert identify(tmp_path / "b", last) == first
    assert identify(tmp_path / "b", tmp_path / "b/checkpoints/last.ckpt") == first
    assert identify(tmp_path / "c", last) != first  # it goes on in b already
    assert identify(tmp_path / "a") != first  # from step 0
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/multirun.yaml").touch()
    fresh = identify(tmp_path / "d")
    assert identify(tmp_path / "sweep/0", tmp_path / "d/checkpoints/last.ckpt") != fresh


def test_names_leave_out_what_tells_nothing_apart(tmp_path):
    typed = ["logger=csv", "data.root=/data", "seed=3", "callbacks.pictures.count=2"]
    compose_config("train", typed, tmp_path / "7")
    assert run_name() == "seed=3 - 7"
    compose_config("train", [*["optim.lr=0.0001"] * 20, "seed=3"], tmp_path / "7")
    assert len(run_name()) <= 120
    assert run_name().endswith("seed=3 - 7")


@pytest.mark.parametrize(("error", "code"), [(RuntimeError, 1), (KeyboardInterrupt, 255)])
def test_failed_runs_end_as_failed(tmp_path, error, code):
    with pytest.raises(error):
        start_run(tmp_path, error=error)
    (run,) = offline_runs(tmp_path)
    assert run.exit_code == code


def test_without_a_key_a_run_stays_on_disk(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    start_run(tmp_path / "run")
    assert len(offline_runs(tmp_path / "run")) == 1
    assert [r.levelname for r in caplog.records if "no API key" in r.message] == ["WARNING"]


def test_a_server_that_fails_stops_nothing(tmp_path, monkeypatch, caplog):
    start = wandb.init

    def init(**arguments):
        if arguments["mode"] == "online":
            raise wandb.errors.CommError("timed out\nsecond line")
        return start(**arguments)

    monkeypatch.setattr(wandb, "login", lambda **arguments: True)
    monkeypatch.setattr(wandb, "init", init)
    start_run(tmp_path, "logger.wandb.mode=online")
    assert len(offline_runs(tmp_path)) == 1
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("W&B: timed out; this run is kept on disk")


@pytest.mark.slow
@pytest.mark.parametrize("listens", [False, True], ids=["closed", "silent"])
def test_a_server_that_does_not_answer_stops_nothing(listens, tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen(50)
        code = (
            "from stepseg.lit.tracking.wandb_run import WandbRun\n"
            f"limits = dict(save_dir={str(tmp_path)!r}, init_timeout=1, finish_timeout=1)\n"
            "run = WandbRun(id='mine', **limits)\n"
            "run.log_metrics({'val/mIoU': 40.0}, 1)\n"
            "run.experiment.finish()\n"
        )
        environment = {
            "WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}",
            "WANDB_API_KEY": "a" * 40,
            "WANDB_MODE": "online",
        }
        done = run_python(code, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("this run is kept on disk") == 1
    (run,) = offline_runs(tmp_path)
    assert run.exit_code == 0


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        timeout=200,
    )


def test_unknown_modes_are_refused(tmp_path):
    cfg = compose_config("train", ["logger=wandb", "logger.wandb.mode=onlin"], tmp_path)
    with pytest.raises(ValueError, match=r"onlin.*online, offline or disabled"):
        make_loggers(cfg, "train")


def test_pictures_change_nothing(data, tmp_path):
    weights = []
    for count, output in ((None, tmp_path / "without"), (2, tmp_path / "with")):
        pictures = (
            "callbacks.pictures=null" if count is None else f"callbacks.pictures.count={count}"
        )
        overrides = ["data=camvid", f"data.root={data}", "logger=csv", "compare=false", pictures]
        train(compose_config("train", [*SMALL, *overrides], output))
        content = torch.load(output / "checkpoints/last.ckpt", weights_only=True)
        with open(output / "csv/metrics.csv") as file:
            weights.append((content["state_dict"], file.read()))
    (plain, plain_rows), (drawn, drawn_rows) = weights
    assert plain_rows == drawn_rows
    assert all(torch.equal(plain[key], drawn[key]) for key in plain)
    assert not (tmp_path / "without/pictures").exists()


@pytest.mark.slow
def test_two_processes_are_one_run(data, tmp_path):
    arguments = [*SMALL, "data=camvid", f"data.root={data}", "trainer=ddp_cpu", "logger=wandb"]
    done = start_command("train", *arguments, "compare=false", output=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = offline_runs(tmp_path)
    assert run.exit_code == 0
    assert "val/pictures/all_masks" in run.keys
