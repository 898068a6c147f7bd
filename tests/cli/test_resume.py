"""A training that was stopped anywhere and resumed ends as the one that never was."""

import json
import os
import shutil
import signal

import pytest
import torch

from commands import compose_config, open_command, start_command, wait_for, write_camvid
from stepseg.cli.resume import check_unused
from stepseg.cli.train.job import train
from stepseg.lit.callbacks.last import LastCheckpoint
from stepseg.lit.callbacks.randomness import BatchRandomness
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.lit.stopping import REQUEUE_EXIT_CODE, TrainingInterrupted
from training import TINY, assert_same_run, load, result_of, rows_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"), val=3)


@pytest.fixture(scope="module")
def run(data):
    def start(folder, *overrides):
        overrides = ["data=camvid", f"data.root={data}", *TINY, *overrides]
        return train(compose_config("train", overrides, folder))

    return start


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


class Crash(BaseException):
    """Stands in for kill -9: nothing of ours may catch it."""


def crash_at(monkeypatch, kind, method, count, after=False):
    """Crash in the `count`-th call of a method."""
    original, calls = getattr(kind, method), []

    def crashing(*args, **kwargs):
        calls.append(1)
        result = original(*args, **kwargs) if after or len(calls) != count else None
        if len(calls) == count:
            raise Crash
        return result

    monkeypatch.setattr(kind, method, crashing)


CRASHES = {
    "before the first checkpoint": (SegmentationModule, "training_step", 2),
    "in a step": (SegmentationModule, "training_step", 3),  # as is that of `stopped`
    "after the row of a step": (SegmentationModule, "training_step", 4, True),
    "in validation": (SegmentationModule, "validation_step", 3),
    "after validation, before saving": (LastCheckpoint, "on_validation_end", 1),
    "after saving": (LastCheckpoint, "on_validation_end", 2, True),
    "in the last validation's checkpoint": (LastCheckpoint, "save", 5),
    "after the last step": (LastCheckpoint, "on_train_end", 1, True),
}


SECOND = ("in a step", "after saving")
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in SECOND else n for n in CRASHES]


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(name, run, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        crash_at(patch, *CRASHES[name])
        with pytest.raises(Crash):
            run(tmp_path)
    run(tmp_path, "ckpt_path=last")
    assert_same_run(tmp_path, whole)


def test_a_run_may_be_interrupted_again_and_again(run, whole, tmp_path, monkeypatch):
    """A signal in the first step, in one that validates, in the next and in the last."""
    original = BatchRandomness.on_train_batch_start

    def signalled(self, trainer, *args):
        original(self, trainer, *args)
        if trainer.global_step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(BatchRandomness, "on_train_batch_start", signalled)
        for step in (1, 3, 4, 7):
            with pytest.raises(TrainingInterrupted, match=f"SIGTERM after step {step}, saved in"):
                run(tmp_path, "ckpt_path=last")
            result = result_of(tmp_path)
            assert (result["status"], result["steps"]) == ("interrupted", step)
            assert result["interrupted_by"] == "SIGTERM"
    run(tmp_path, "ckpt_path=last")
    assert_same_run(tmp_path, whole)


@pytest.fixture(scope="module")
def killed(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, SegmentationModule, "training_step", 6)
        with pytest.raises(Crash):
            run(folder)
    return folder


@pytest.fixture
def stopped(killed, tmp_path):
    """A copy of a run that was killed in its sixth step, with checkpoints of steps 4 and 3."""
    return shutil.copytree(killed, tmp_path / "stopped")


@pytest.mark.parametrize("damage", ["cut off", "one byte changed", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage, run, whole, stopped, capfd):
    last = stopped / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(
        {"cut off": content[:-5000], "one byte changed": content, "empty": b""}[damage]
    )
    run(stopped, "ckpt_path=last")
    said = capfd.readouterr().err
    assert "last.ckpt' cannot be read safely" in said
    assert "previous.ckpt at step 3" in said
    assert_same_run(stopped, whole)


def test_no_whole_checkpoint_at_all_is_an_error(run, stopped):
    for name in ("last", "previous", "best"):
        (stopped / "checkpoints" / f"{name}.ckpt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole"):
        run(stopped, "ckpt_path=last")


def test_checkpoints_are_bounded_and_leftovers_of_killed_writers_go(run, stopped):
    (stopped / "checkpoints" / ".next.ckpt.abc").write_bytes(b"half")
    run(stopped, "ckpt_path=last")
    names = sorted(path.name for path in (stopped / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt", "previous.ckpt"]


def test_an_unfinished_training_is_not_overwritten(run, stopped, tmp_path):
    before = (stopped / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match="unfinished training: continue it with ckpt_path=last"):
        run(stopped)
    assert (stopped / "checkpoints" / "last.ckpt").read_bytes() == before
    # also where another run's is to go on there, or a kill came between two renames
    elsewhere = tmp_path / "other.ckpt"
    elsewhere.write_bytes(before)
    with pytest.raises(ValueError, match="unfinished training"):
        check_unused(str(elsewhere), stopped)
    check_unused(str(stopped), stopped)
    check_unused(str(stopped / "checkpoints" / "last.ckpt"), stopped)
    (stopped / "checkpoints" / "last.ckpt").rename(stopped / "checkpoints" / "next.ckpt")
    (stopped / "checkpoints" / "previous.ckpt").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="unfinished training"):
        check_unused(None, stopped)


def test_the_result_of_another_command_ends_no_training(run, stopped):
    """It says completed, and nothing of the training, which an older version let it replace."""
    result = stopped / "result.json"
    result.write_text(json.dumps({"status": "completed", "command": "stepseg-eval"}))
    before = (stopped / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match="holds the result of stepseg-eval"):
        run(stopped, "ckpt_path=last")
    result.unlink()
    assert run(stopped, "ckpt_path=last") is not None
    assert (stopped / "checkpoints" / "last.ckpt").read_bytes() != before


def test_a_checkpoint_of_another_run_continues_elsewhere(run, whole, stopped, tmp_path_factory):
    for index, path in enumerate([stopped, stopped / "checkpoints" / "last.ckpt"]):
        folder = tmp_path_factory.mktemp(f"elsewhere{index}")
        run(folder, f"ckpt_path={path}")
        assert rows_of(folder) == [row for row in rows_of(whole) if int(row["step"]) >= 4]
        assert result_of(folder)["resumed_from"]["step"] == 4
        for name in ("last.ckpt", "best.ckpt"):
            mine, theirs = load(folder, name), load(whole, name)
            torch.testing.assert_close(mine["state_dict"], theirs["state_dict"], rtol=0, atol=0)
        best = result_of(folder)["checkpoint"]
        assert best == str(folder / "checkpoints" / "best.ckpt")


STOCK = (
    "+callbacks.stock={_target_: lightning.pytorch.callbacks.ModelCheckpoint, monitor: val/mIoU, "
    "mode: max, save_top_k: 1"
)


def test_no_path_out_of_a_checkpoint_is_followed(run, stopped, tmp_path_factory):
    """Not for deleting and not for copying, by our callback or by Lightning's own."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "victim").mkdir()
    (outside / "victim" / "file").write_text("dear")
    (outside / "private.key").write_text("secret")
    own = stopped / "checkpoints"
    stock = f"{STOCK}, dirpath: {own}}}"
    last = own / "last.ckpt"
    content = torch.load(last, weights_only=True)
    up = "../" * 20
    resumed = (("last", stopped), (last, tmp_path_factory.mktemp("elsewhere")))
    for (ckpt_path, folder), place in zip(resumed, (str(own), str(outside)), strict=True):
        victim = f"{own}/{up}{outside}/victim"
        hostile = {
            "monitor": "val/mIoU",
            "dirpath": place,
            "best_model_path": str(outside / "private.key"),
            "best_model_score": torch.tensor(-1.0),
            "current_score": torch.tensor(-1.0),
            "kth_best_model_path": victim,
            "kth_value": torch.tensor(-1.0),
            "best_k_models": {victim: torch.tensor(-1.0)},
            "last_model_path": victim,
        }
        (best,) = (key for key in content["callbacks"] if key.startswith("BestCheckpoint"))
        states = dict.fromkeys((best, best.replace("Best", "Model", 1)), hostile)
        torch.save(content | {"callbacks": content["callbacks"] | states}, last)
        before = last.read_bytes()
        run(folder, f"ckpt_path={ckpt_path}", stock)
        last.write_bytes(before)
        assert (outside / "victim" / "file").read_text() == "dear"
        found = {path.read_bytes()[:6] for path in folder.rglob("*") if path.is_file()}
        assert b"secret" not in found


def test_a_best_checkpoint_that_is_none_is_not_copied(run, stopped, tmp_path_factory, capfd):
    """In a folder out of foreign hands it may be a link to anything."""
    private = tmp_path_factory.mktemp("home") / "private.key"
    private.write_text("secret")
    best, folder = stopped / "checkpoints" / "best.ckpt", tmp_path_factory.mktemp("elsewhere")
    best.unlink()
    best.symlink_to(private)
    run(folder, f"ckpt_path={stopped / 'checkpoints' / 'last.ckpt'}")
    assert "best.ckpt' cannot be read safely" in capfd.readouterr().err
    assert load(folder, "best.ckpt")["global_step"] in (6, 7)


def test_a_changed_configuration_is_refused_by_name(run, stopped, capfd):
    changed = ["ckpt_path=last", "optim.lr=0.5", "heads.dropout=0", "data.crop_size=[64,80]"]
    with pytest.raises(ValueError, match=r"resume\.on_change=warn") as error:
        run(stopped, *changed)
    for shown in ("optim.lr: 0.001 -> 0.5", "heads.dropout: 0.2 -> 0", "data.crop_size"):
        assert shown in str(error.value)
    assert "trainer.max_steps" not in str(error.value)
    run(stopped, *changed, "resume.on_change=warn", "data.num_workers=1", "compare=false")
    assert "optim.lr: 0.001 -> 0.5" in capfd.readouterr().err
    # and it is done, not only said
    (optimizer,) = load(stopped)["optimizer_states"]
    rates = {group["name"].split()[0]: group["initial_lr"] for group in optimizer["param_groups"]}
    assert rates["backbone"] == 0.5
    (schedule,) = load(stopped)["lr_schedulers"]
    assert schedule["base_lrs"] == [group["initial_lr"] for group in optimizer["param_groups"]]


def test_an_optimiser_of_other_groups_is_refused_by_name(run, stopped):
    changed = ["ckpt_path=last", "optim.layer_decay=0.5", "resume.on_change=warn"]
    with pytest.raises(ValueError, match=r"'backbone' has \d+ there and 0 here.*init_from="):
        run(stopped, *changed)


def test_a_checkpoint_behind_the_last_step_is_refused(run, stopped):
    with pytest.raises(ValueError, match=r"at step 4, behind trainer\.max_steps=3: give more"):
        run(stopped, "ckpt_path=last", "trainer.max_steps=3", "resume.on_change=warn")
    # at the last step there is nothing left to train, and everything to tell
    options = ["trainer.max_steps=4", "resume.on_change=warn", "compare=true"]
    assert run(stopped, "ckpt_path=last", *options) == result_of(stopped)["rows"][-1]["mIoU"]


def test_a_finished_run_says_so_and_stays(run, whole, capfd):
    before = (whole / "result.json").read_bytes()
    assert run(whole, "ckpt_path=last") == result_of(whole)["mIoU"]
    assert "this run has completed (7 steps), nothing to resume" in capfd.readouterr().err
    with pytest.raises(ValueError, match="holds a finished training: choose another"):
        run(whole)
    assert (whole / "result.json").read_bytes() == before


@pytest.mark.slow
def test_workers_and_accumulation_change_nothing_about_it(run, tmp_path, monkeypatch):
    options = ["trainer.accumulate_grad_batches=2", "trainer.val_check_interval=6"]
    run(tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        crash_at(patch, SegmentationModule, "training_step", 10)
        with pytest.raises(Crash):
            run(tmp_path / "stopped", *options, "data.num_workers=2")
    run(tmp_path / "stopped", *options, "data.num_workers=2", "ckpt_path=last")
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("bad", ["nowhere", "pickle"])
def test_what_is_no_checkpoint_is_refused_before_anything_runs(bad, run, tmp_path):
    path = tmp_path / "bomb.ckpt"
    if bad == "pickle":
        torch.save({"state_dict": Bomb(tmp_path / "exploded")}, path)
    with pytest.raises(ValueError, match="is not a file" if bad == "nowhere" else "safely"):
        run(tmp_path / "out", f"ckpt_path={path}")
    assert not (tmp_path / "exploded").exists()


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.slow  # three starts of two processes
def test_two_processes_resume_to_the_last_bit(data, tmp_path):
    """A signal to the first process alone stops both after the same step."""
    common = ["data=camvid", f"data.root={data}", *TINY, "trainer=ddp_cpu", "data.num_workers=1"]
    common += ["trainer.max_steps=24", "trainer.val_check_interval=10"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert start_command("train", *common, output=whole).returncode == 0
    process = open_command("train", *common, output=stopped)
    wait_for(process, "step 4/24")
    process.send_signal(signal.SIGUSR1)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == REQUEUE_EXIT_CODE, said
    assert f"go on with the same command and hydra.run.dir={stopped} ckpt_path=last" in said
    assert result_of(stopped)["interrupted_by"] == "SIGUSR1"
    again = start_command("train", *common, "ckpt_path=last", output=stopped)
    assert again.returncode == 0, again.stderr
    assert_same_run(stopped, whole)
