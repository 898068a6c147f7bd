"""Faults in the middle of a training: named, counted, survived where that is possible."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from commands import compose_config, open_command, wait_for, write_camvid
from stepseg.cli.ending import run_command
from stepseg.cli.failures import RunFailedError, explain
from stepseg.cli.train.job import train
from stepseg.lit.callbacks.non_finite import TrainingDivergedError
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.lit.stopping import REQUEUE_EXIT_CODE
from training import TINY, assert_same_run, load, result_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"), val=3)


@pytest.fixture
def run(data, tmp_path):
    def start(*overrides, folder=tmp_path / "run"):
        overrides = ["data=camvid", f"data.root={data}", *TINY, *overrides]
        return train(compose_config("train", overrides, folder))

    return start


def spoil(monkeypatch, steps, value):
    """Make the loss of some steps `value`, and the policy's running statistics NaN with it."""
    original = SegmentationModule.losses

    def losses(self, output, labels):
        terms = original(self, output, labels)
        if self.training and self.global_step in steps:
            terms["policy"] = terms["policy"] * value
            for name, buffer in self.model.policy.named_buffers():
                if "running" in name:
                    buffer.data.fill_(float("nan"))  # behind autograd's back
        return terms

    monkeypatch.setattr(SegmentationModule, "losses", losses)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_leaves_no_trace(value, run, tmp_path, monkeypatch):
    spoil(monkeypatch, {3}, value)
    run("callbacks.last.every_n_steps=1", "trainer.max_steps=4", "trainer.val_check_interval=4")
    after, before = load(tmp_path / "run"), load(tmp_path / "run", "previous.ckpt")
    assert (after["global_step"], before["global_step"]) == (4, 3)
    # the validation after the last step calibrates policy and heads, whatever the step was
    other = ("num_batches_tracked", "correction", "temperature")
    learned = [
        {key: value for key, value in state["state_dict"].items() if not key.endswith(other)}
        for state in (after, before)
    ]
    torch.testing.assert_close(*learned, rtol=0, atol=0)
    (now,), (then,) = after["optimizer_states"], before["optimizer_states"]
    torch.testing.assert_close(now["state"], then["state"], rtol=0, atol=0)
    assert result_of(tmp_path / "run")["skipped_steps"] == [3]


def test_too_many_of_them_end_the_training(run, tmp_path, monkeypatch):
    spoil(monkeypatch, {2, 4, 5, 6}, float("nan"))
    with pytest.raises(TrainingDivergedError) as error:
        run("callbacks.non_finite.max_in_row=2")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for part in ("not finite in step 6 (images: 00", f"Last good checkpoint: {last}", "optim.lr"):
        assert part in str(error.value)
    assert all(torch.isfinite(v).all() for v in load(tmp_path / "run")["state_dict"].values())
    with pytest.raises(TrainingDivergedError, match="2 in all"):
        run("callbacks.non_finite.max_total=1", folder=tmp_path / "total")


def test_an_unreadable_image_is_named_or_left_out(tmp_path, capsys):
    root = write_camvid(tmp_path / "data")
    (root / "images" / "train" / "002.png").write_bytes(b"\x89PNG no image")

    def run(folder, *overrides):
        overrides = ["data=camvid", f"data.root={root}", *TINY, *overrides]
        train(compose_config("train", overrides, folder))

    for workers in (0, 1):
        folder = tmp_path / f"raise{workers}"
        task = partial(run, folder, f"data.num_workers={workers}")
        with pytest.raises(SystemExit) as stop:
            run_command("stepseg-train", task)
        assert stop.value.code == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("stepseg-train: error: ")
        assert "002.png: cannot read this image" in said
        assert result_of(folder)["error"].startswith("ImageFileError: /")
    run(tmp_path / "skip", "data.on_error=skip", "data.num_workers=1")
    found = result_of(tmp_path / "skip")["broken_images"]
    assert found["files"] == 1
    assert found["left_out"] in (2, 3)  # 14 samples are two passes over six images and a third
    assert "002.png" in next(iter(found["listed"]))


def test_nothing_but_unreadable_images_is_an_error_all_the_same(tmp_path):
    root = write_camvid(tmp_path / "data")
    for path in (root / "images" / "train").iterdir():
        path.write_bytes(b"")
    overrides = ["data=camvid", f"data.root={root}", *TINY, "data.on_error=skip"]
    with pytest.raises(ValueError, match="6 images in a row cannot be read"):
        train(compose_config("train", overrides, tmp_path / "out"))


def test_out_of_memory_says_what_to_lower(run, tmp_path, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(SegmentationModule, "training_step", full)
    with pytest.raises(RunFailedError, match=r"lower data\.batch_size \(2") as error:
        run()
    for part in ("data.crop_size ([64, 64])", "trainer.precision=bf16-mixed", "Tried to allocate"):
        assert part in str(error.value)
    assert "out of GPU memory" in result_of(tmp_path / "run")["error"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), r"out of memory: lower data\.batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9"), "lower"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."), "num_workers"),
        (OSError(errno.ENOSPC, "No space left on device", "x.ckpt"), "no space left to write x"),
    ],
)
def test_other_shortages_are_explained(error, message):
    values = {"data": {"batch_size": 2}, "backbone": {}, "trainer": {"precision": "32-true"}}
    assert re.search(message, explain(error, values))
    assert explain(RuntimeError("a bug"), values) is None


def test_a_full_disk_has_another_remedy_for_an_evaluation():
    full = OSError(errno.ENOSPC, "No space left on device", "rows.json")
    assert "continue with ckpt_path=last" in explain(full, {"backbone": {}})
    assert "the same command with the same hydra.run.dir" in explain(full, {"data": {}})


def test_a_full_disk_keeps_the_checkpoint_before(run, data, tmp_path, monkeypatch):
    """A limit on the size of files stands for the disk: the same error, at the same place."""
    run(folder=tmp_path / "whole")
    original = SegmentationModule.training_step
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(self, batch, index):
        if self.global_step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationModule, "training_step", filling)
        try:
            with pytest.raises(RunFailedError, match="no space left to write /"):
                run()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert load(tmp_path / "run")["global_step"] == 4
    run("ckpt_path=last")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def children(pid):
    """Processes below `pid`, by id."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by /proc")
@pytest.mark.slow  # two processes; the watch itself is tested in lit/test_ranks.py
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_others(rank, data, tmp_path):
    process = open_command(
        "train", "data=camvid", f"data.root={data}", *TINY, "trainer=ddp_cpu",
        "trainer.max_steps=100000", "trainer.val_check_interval=100000", output=tmp_path / "run",
    )  # fmt: skip
    wait_for(process, "step 4/")
    (other,) = children(process.pid)
    os.kill(other if rank else process.pid, signal.SIGKILL)
    start = time.monotonic()
    said = process.communicate(timeout=60)[1]
    while alive(other) and time.monotonic() - start < 60:
        time.sleep(0.2)
    assert not alive(other)
    if rank:
        assert process.returncode == 1
        assert "stepseg-train: failed: the process of rank 1 was killed by signal 9" in said
        result = result_of(tmp_path / "run")
        assert result["status"] == "failed"
        assert "rank 1 was killed by signal 9" in result["error"]


RANK_1 = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from commands import compose_config
from stepseg.cli.ending import run_command
from stepseg.cli.train.job import train
from stepseg.lit.segmentation_module import SegmentationModule

original = SegmentationModule.losses

def losses(self, output, labels):
    terms = original(self, output, labels)
    if self.training and self.global_step == 3 and self.global_rank == 1:
        {deed}
    return terms

SegmentationModule.losses = losses
cfg = compose_config("train", {overrides!r}, Path({folder!r}))
run_command("stepseg-train", lambda: train(cfg))
"""


def open_with_rank_1(deed, data, tmp_path, *options):
    """Start a training of two processes, in which the second does `deed` in step 3."""
    overrides = ["data=camvid", f"data.root={data}", *TINY, "trainer=ddp_cpu", *options]
    script, tests = tmp_path / "script.py", str(Path(__file__).parents[1])
    folder = str(tmp_path / "run")
    script.write_text(RANK_1.format(tests=tests, deed=deed, overrides=overrides, folder=folder))
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow  # two processes
def test_all_ranks_skip_together(data, tmp_path):
    spoilt = 'terms["policy"] = terms["policy"] * float("inf")'
    process = open_with_rank_1(spoilt, data, tmp_path)
    err = process.communicate(timeout=200)[1]
    assert process.returncode == 0, err[-2000:]
    assert result_of(tmp_path / "run")["skipped_steps"] == [3]
    assert err.count("step skipped") == 1  # told once
    assert all(torch.isfinite(v).all() for v in load(tmp_path / "run")["state_dict"].values())


@pytest.mark.slow  # two processes; its parts: lit/test_grace.py, lit/test_ranks.py, test_result.py
def test_a_hung_training_obeys_a_signal(data, tmp_path):
    """A process inside a collective runs no handler; its last checkpoint is whole."""
    last, hangs = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "hangs"
    deed = f"Path({str(hangs)!r}).touch(); time.sleep(1000)"
    process = open_with_rank_1(deed, data, tmp_path, "stop.grace_seconds=1")
    try:
        wait_for(process, "step 2/")
        (other,) = children(process.pid)
        while not hangs.is_file():
            time.sleep(0.1)
        time.sleep(2)  # until the first process waits for it
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == REQUEUE_EXIT_CODE, said
    assert "stepseg-train: SIGTERM was not obeyed within 1 s" in said
    result = result_of(tmp_path / "run")
    assert (result["status"], result["checkpoint"]) == ("interrupted", str(last))
    assert load(tmp_path / "run")["global_step"] == 3  # saved after the validation
    assert not alive(other)


@pytest.mark.slow  # as long as processes may take to find each other
def test_a_process_that_waits_too_long_says_so(data, tmp_path):
    process = open_with_rank_1("time.sleep(1000)", data, tmp_path, "ranks.timeout_seconds=25")
    try:
        said = process.communicate(timeout=200)[1]
    finally:
        process.kill()
    assert process.returncode == 1
    failed = "stepseg-train: failed: rank 0 waited longer than 25 s (ranks.timeout_seconds) for"
    assert failed in said
    assert "rank 0 waited longer" in result_of(tmp_path / "run")["error"]
