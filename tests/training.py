"""The smallest training that has everything, and how two such runs are compared."""

import csv
import json

import torch

from commands import SMALL

TINY = [
    *SMALL, "trainer.max_steps=7", "trainer.val_check_interval=3", "trainer.log_every_n_steps=2",
    "backbone.depth=3", "reduction.exit.blocks=[1,2]", "backbone.drop_path=0.2",
    "heads.dropout=0.2", "compare=false", "callbacks.last.every_n_steps=2",
    "schedule.dense_share=0.3", "callbacks.pictures=null",
    "policy.calibration_images=2",
]  # fmt: skip


def rows_of(folder):
    with open(folder / "csv" / "metrics.csv") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def load(folder, name="last.ckpt"):
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def assert_same_run(folder, whole):
    """Every row of the log, weights, optimiser, best checkpoint and figures, to the last bit."""
    assert rows_of(folder) == rows_of(whole)
    for name in ("last.ckpt", "best.ckpt"):
        mine, theirs = load(folder, name), load(whole, name)
        assert mine["global_step"] == theirs["global_step"]
        torch.testing.assert_close(mine["state_dict"], theirs["state_dict"], rtol=0, atol=0)
        (mine_state,), (their_state,) = mine["optimizer_states"], theirs["optimizer_states"]
        torch.testing.assert_close(mine_state["state"], their_state["state"], rtol=0, atol=0)
        assert mine_state["param_groups"] == their_state["param_groups"]
        assert mine["lr_schedulers"] == theirs["lr_schedulers"]
    assert result_of(folder)["status"] == "completed"
    assert result_of(folder)["steps"] == result_of(whole)["steps"]
    assert result_of(folder)["mIoU"] == result_of(whole)["mIoU"]
