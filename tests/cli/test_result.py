"""`result.json` tells how a command ended, however it ended."""

import json
import os
import signal
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import SMALL, compose_config, open_command, wait_for, write_camvid
from stepseg.cli.ending import run_command
from stepseg.cli.result import Result, read_result
from stepseg.cli.train.job import train
from stepseg.files.folder_lock import FolderInUseError
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.lit.stopping import REQUEUE_EXIT_CODE


def result(folder):
    return Result(folder, command="stepseg-test", overrides=["a=1"], config={"seed": 3})


def test_completed(tmp_path):
    with result(tmp_path) as running:
        running.update({"mIoU": 41.5, "per_class_IoU": [1.0, float("nan")], "folder": (1, 2)})
        assert not (tmp_path / "result.json").exists()  # nobody reads half of it
    values = read_result(tmp_path / "result.json")
    assert values["status"] == "completed"
    assert values["mIoU"] == 41.5
    assert values["per_class_IoU"] == [1.0, None]
    assert values["seed"] == 3
    assert values["overrides"] == ["a=1"]
    assert values["seconds"] >= 0
    assert {"stepseg", "torch", "lightning"} <= set(values["versions"])


def test_no_command_replaces_the_result_of_another(tmp_path):
    with result(tmp_path) as running:
        running.update({"mIoU": 41.5})
    other = Result(tmp_path, command="stepseg-other", overrides=[], config={})
    with pytest.raises(ValueError, match=r"holds the result of stepseg-test, which stepseg-other"):
        other.__enter__()
    assert read_result(tmp_path / "result.json")["mIoU"] == 41.5
    with result(tmp_path) as again:  # the folder is free
        again.update({"mIoU": 42.5})
    assert read_result(tmp_path / "result.json")["mIoU"] == 42.5


def test_failed_and_interrupted(tmp_path):
    with pytest.raises(RuntimeError), result(tmp_path):
        raise RuntimeError("no space left")
    values = read_result(tmp_path / "result.json")
    assert values["status"] == "failed"
    assert values["error"] == "RuntimeError: no space left"
    with pytest.raises(KeyboardInterrupt), result(tmp_path):
        raise KeyboardInterrupt
    assert read_result(tmp_path / "result.json")["status"] == "interrupted"


def test_exit_because_of_an_interrupt_is_an_interrupt(tmp_path):
    def stop():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    with pytest.raises(SystemExit), result(tmp_path):
        stop()
    assert read_result(tmp_path / "result.json")["status"] == "interrupted"
    with pytest.raises(SystemExit), result(tmp_path):
        sys.exit(1)
    assert read_result(tmp_path / "result.json")["status"] == "failed"


@pytest.mark.parametrize("saved", [True, False])
def test_what_does_not_obey_a_signal_says_how_to_go_on(saved, tmp_path, capsys):
    last = tmp_path / "checkpoints" / "last.ckpt"
    if saved:
        last.parent.mkdir()
        last.touch()
    code = result(tmp_path)._give_up(signal.SIGTERM)
    assert code == (REQUEUE_EXIT_CODE if saved else 130)
    said = capsys.readouterr().err
    assert said.startswith("stepseg-test: SIGTERM was not obeyed within 120 s (stop.grace_seconds)")
    assert (f"hydra.run.dir={tmp_path} ckpt_path=last" in said) is saved
    values = read_result(tmp_path / "result.json")
    assert (values["status"], values["interrupted_by"]) == ("interrupted", "SIGTERM")
    assert values.get("checkpoint") == (str(last) if saved else None)


def test_errors_in_a_circle_end(tmp_path):
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    with pytest.raises(ValueError, match="first"), result(tmp_path):
        raise first
    assert read_result(tmp_path / "result.json")["status"] == "failed"


WORDS = st.text(st.characters(exclude_categories=[]), max_size=6)  # half characters, too
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(WORDS | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values=st.dictionaries(WORDS, PLAIN, max_size=4))
def test_any_plain_values_come_back(values, tmp_path_factory):
    """What is no number is None, tuples are lists and keys words; all else is as it was."""
    folder = tmp_path_factory.getbasetemp() / "any"
    with result(folder) as running:
        running.update({"figures": values})
    assert read_result(folder / "result.json")["figures"] == as_json(values)


def as_json(value):
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    is_number = not isinstance(value, float) or abs(value) < float("inf")
    return value if is_number else None


def test_half_characters_of_a_file_name_are_written(tmp_path):
    """An argument that is no UTF-8 reaches Python like this."""
    name = b"data.root=/data/stra\xdfe".decode("utf-8", "surrogateescape")
    with Result(tmp_path, command="stepseg-test", overrides=[name], config={}):
        pass
    assert read_result(tmp_path / "result.json")["overrides"] == [name]


def test_foreign_files_are_named(tmp_path):
    path = tmp_path / "result.json"
    with pytest.raises(ValueError, match="not readable"):
        read_result(path)
    path.write_text("{half")
    with pytest.raises(ValueError, match=r"result\.json is not readable"):
        read_result(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"result\.json is not readable"):
        read_result(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="is no result of stepseg"):
        read_result(path)


def started(tmp_path):
    """The overrides of a training that has no end, and where it writes."""
    root = write_camvid(tmp_path / "data")
    endless = ["trainer.max_steps=100000", "trainer.val_check_interval=100000"]
    return ["data=camvid", f"data.root={root}", *SMALL, *endless], tmp_path / "out"


def check_stopped(output, kind, code):
    assert code == (130 if kind == signal.SIGINT else 75)
    result = json.loads((output / "result.json").read_text())
    assert (result["status"], result["interrupted_by"]) == ("interrupted", kind.name)
    assert result["checkpoint"] == str(output / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_training_that_is_stopped_says_so(kind, tmp_path, monkeypatch):
    overrides, output = started(tmp_path)
    step = SegmentationModule.training_step

    def signalled(self, *batch):
        os.kill(os.getpid(), kind)
        return step(self, *batch)

    monkeypatch.setattr(SegmentationModule, "training_step", signalled)
    cfg = compose_config("train", overrides, output)
    with pytest.raises(SystemExit) as stop:
        run_command("stepseg-train", lambda: train(cfg))
    check_stopped(output, kind, stop.value.code)


def test_a_second_command_in_the_folder_is_told_who_is_there(tmp_path):
    overrides, output = started(tmp_path)
    process = open_command("train", *overrides, output=output)
    wait_for(process, "step")
    used = rf"is in use by stepseg-train \(process {process.pid} on "
    second = Result(output, command="stepseg-eval", overrides=[], config={})
    with pytest.raises(FolderInUseError, match=used), second:
        pass
    assert not (output / "result.json").exists()  # everything is as it was
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
    check_stopped(output, signal.SIGINT, process.returncode)
