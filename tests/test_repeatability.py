"""One seed, one result: trainings and evaluations repeat to the last bit on a CPU."""

import json

import pytest
import torch

from commands import SMALL, compose_config, write_camvid
from stepseg.checkpoint import read_checkpoint
from stepseg.cli.evaluate.job import evaluate
from stepseg.cli.train.job import train

pytestmark = pytest.mark.slow

FIGURES = (
    "mIoU", "aAcc", "mAcc", "fwIoU", "boundary_IoU", "per_class_IoU", "gmacs_mean", "gmacs_std",
    "tokens_per_stage", "superpatches", "exited_per_head",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"))


def figures(folder):
    result = json.loads((folder / "result.json").read_text())
    rows = [{name: row[name] for name in FIGURES} for row in result["rows"]]
    assert rows
    assert all(row["mIoU"] is not None for row in rows)
    return rows


def trained(data, folder, *overrides):
    base = ["data=camvid", f"data.root={data}", *SMALL]
    train(compose_config("train", [*base, *overrides], folder))
    state = read_checkpoint(folder / "checkpoints" / "last.ckpt").state
    return figures(folder), state


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    return trained(data, tmp_path_factory.mktemp("first"), "seed=3")


@pytest.mark.parametrize("workers", [0, 2])
def test_training_repeats(workers, first, data, tmp_path):
    again = trained(data, tmp_path, "seed=3", f"data.num_workers={workers}")
    assert again[0] == first[0]
    for key, value in first[1].items():
        assert torch.equal(again[1][key], value), key


def test_another_seed_is_another_training(first, data, tmp_path):
    _, state = trained(data, tmp_path, "seed=4")
    assert any(not torch.equal(state[key], value) for key, value in first[1].items())


def test_evaluation_repeats(data, tmp_path):
    trained(data, tmp_path / "train")
    checkpoint = tmp_path / "train" / "checkpoints" / "last.ckpt"
    runs = []
    for workers in (0, 0, 2):
        folder = tmp_path / f"eval{len(runs)}"
        overrides = [
            f"ckpt_path={checkpoint}", "data=camvid", f"data.root={data}", "data.val_batch_size=1",
            f"data.num_workers={workers}", "sweep.exit_rules=[confidence,random,uniform]",
        ]  # fmt: skip
        evaluate(compose_config("eval", overrides, folder))
        runs.append(figures(folder))
    assert runs[0] == runs[1] == runs[2]
