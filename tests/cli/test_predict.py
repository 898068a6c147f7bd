"""`stepseg-predict` from files to files, with a small untrained model."""

import csv
import errno
import importlib
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from commands import compose_config, write_camvid
from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint import describe, read_checkpoint, write_inference_checkpoint
from stepseg.cli.evaluate.job import evaluate
from stepseg.cli.predict.job import predict
from stepseg.data.specs import get_spec
from stepseg.files.confusion import read_confusion
from stepseg.predict import runner as runner_module
from stepseg.predict.prediction import KINDS
from stepseg.protocol import Protocol
from toys import sharpen

CONFIG = {
    "num_classes": 11,
    "backbone": {"name": "vit_tiny", "depth": 3},
    "policy": {"name": "lcnet_050", "windows": [2, 4]},
    "reduction": {
        "merge": {"windows": [2, 4], "thresholds": [0.5, 0.5]},
        "exit": {"blocks": [1, 2], "threshold": 0.5, "keep_per_class": 1},
    },
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    config = ModelConfig.from_dict(CONFIG)
    model = build_segmenter(config)
    for head in (*model.exit_heads.values(), model.decoder):
        sharpen(head)
    entry = describe(config, get_spec("camvid"), Protocol())
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    torch.save({"state_dict": state, "stepseg": entry, "global_step": 0}, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"), train=1, val=3)


def run(checkpoint, output, *overrides, **given):
    options = {"ckpt_path": checkpoint, "pictures": "[]", "device": "cpu"} | given
    typed = [f"{key}={value}" for key, value in options.items()]
    predict(compose_config("predict", [*typed, *overrides], output))
    return json.loads((output / "result.json").read_text())


def labels_in(folder):
    files = sorted((folder / "labels").rglob("*.png"))
    return {str(f.relative_to(folder / "labels")): np.asarray(Image.open(f)) for f in files}


def write_image(path, height=40, width=56, seed=0, **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([], ["data.evaluation.mode=whole"]),
        (["protocol=slide", "crop=[48,64]", "stride=[32,40]"],
         ["data.evaluation.mode=slide", "+data.evaluation.crop=[48,64]",
          "+data.evaluation.stride=[32,40]"]),
        (["resize_short=48"], ["+data.evaluation.resize_short=48"]),
    ],
)  # fmt: skip
def test_label_maps_and_figures_are_those_of_the_evaluation(
    ours, theirs, checkpoint, data, tmp_path
):
    common = [f"ckpt_path={checkpoint}", "data=camvid", f"data.root={data}", *theirs]
    common += ["data.num_workers=0", "data.val_batch_size=1", "save_predictions=true"]
    evaluate(compose_config("eval", common, tmp_path / "eval"))
    expected = json.loads((tmp_path / "eval" / "result.json").read_text())
    result = run(
        checkpoint, tmp_path / "out", *ours, input=data / "images/val",
        labels=data / "annotations/val", batch_size=2,
    )  # fmt: skip
    for file, labels in labels_in(tmp_path / "out").items():
        theirs = np.asarray(Image.open(tmp_path / "eval" / "predictions" / file))
        assert (labels == theirs).all()
    assert result["status"] == "completed"
    assert result["images"] == 3
    for key in ("mIoU", "aAcc", "gmacs_mean", "boundary_IoU"):
        assert result[key] == pytest.approx(expected[key], abs=1e-6)
    for key in ("tokens_per_stage", "exited_per_head", "superpatches"):
        assert result[key] == pytest.approx(expected[key])
    assert min(result["tokens_per_stage"]) < max(result["tokens_per_stage"])
    for key in ("protocol", "data_name"):
        assert result[key] == expected[key]


def test_every_picture_is_written_and_told(checkpoint, data, tmp_path):
    result = run(
        checkpoint, tmp_path, input=data / "images", labels=data / "annotations",
        pictures=f"[{','.join(KINDS)}]", statistics="true",
    )  # fmt: skip
    for kind in ("labels", *KINDS):
        assert sorted(p.relative_to(tmp_path / kind).as_posix() for p in
                      (tmp_path / kind).rglob("*.png")) == [
            "train/000.png", "val/000.png", "val/001.png", "val/002.png"]  # fmt: skip
    for kind in ("labels", "colours", "overlay"):
        with Image.open(tmp_path / kind / "val/000.png") as picture:
            assert picture.size == (96, 64)
    record = json.loads((tmp_path / "records/val/000.json").read_text())
    assert record["source"].endswith("images/val/000.png")
    assert sum(record["superpatches"].values()) == record["tokens_per_stage"][0]
    assert sum(record["classes"].values()) == pytest.approx(1, abs=1e-4)
    assert 0 <= record["differs_from_dense"] <= 1
    with open(tmp_path / "images.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["train/000", "val/000", "val/001", "val/002"]
    means = {(row["kind"], row["name"]): row["mean"] for row in result["statistics"]}
    assert means["tokens", "to the end"] == pytest.approx(result["tokens_per_stage"][-1], abs=1e-3)
    exited = means["exited", "after block 1"] + means["exited", "after block 2"]
    assert means["exited_until", "block 2"] == pytest.approx(exited, abs=2e-3)
    assert (tmp_path / "statistics.csv").read_text().startswith("kind,name,mean")
    assert Image.open(tmp_path / "statistics.png").width > 500


def test_a_submission_holds_the_labels_in_the_ids_of_the_data_set(checkpoint, data, tmp_path):
    images = data / "images"
    options = {"labels": data / "annotations" / "val", "submission": "true"}
    result = run(checkpoint, tmp_path, input=images / "val", **options)
    assert result["submission"] == "submission.zip"
    ids = get_spec("camvid").label_map
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert archive.namelist() == ["000.png", "001.png", "002.png"]
        for name in archive.namelist():
            submitted = np.asarray(Image.open(io.BytesIO(archive.read(name))))
            ours = labels_in(tmp_path)[name]
            assert (ids.apply(submitted, name) == ours).all()
    classes, counts = read_confusion(tmp_path / result["confusion"])
    assert classes == list(get_spec("camvid").classes)
    share = 100 * counts.diagonal().sum() / counts.sum()
    assert result["aAcc"] == pytest.approx(share)
    with pytest.raises(ValueError, match="would have the same name in the file"):
        run(checkpoint, tmp_path / "both", input=images, submission="true")


def test_unreadable_inputs_are_told_and_the_others_done(checkpoint, tmp_path):
    source = tmp_path / "in"
    write_image(source / "good.png")
    write_image(source / "sub" / "tiny.png", 3, 5)
    (source / "text.jpg").write_text("no image")
    cut = write_image(source / "cut.png").read_bytes()
    (source / "cut.png").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(ValueError, match=r"2 input\(s\) failed, 2 done; the first: .*cut\.png"):
        run(checkpoint, tmp_path / "out", input=source)
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["status"] == "failed"
    assert [f["source"] for f in result["failed"]] == [
        str(source / "cut.png"), str(source / "text.jpg")]  # fmt: skip
    shapes = {name: labels.shape for name, labels in labels_in(tmp_path / "out").items()}
    assert shapes == {"good.png": (40, 56), "sub/tiny.png": (3, 5)}


def edited(checkpoint, path, edit):
    content = torch.load(checkpoint, weights_only=True)
    edit(content)
    torch.save(content, path)
    return path


def test_what_a_checkpoint_asks_for_can_be_too_much(checkpoint, data, tmp_path):
    """Each image is refused by itself, before its first window."""

    def resized(content):
        content["stepseg"]["protocol"]["resize_short"] = 20_000

    def huge(content):
        content["state_dict"]["model.backbone.blocks.0.mlp.fc2.weight"].fill_(3e38)

    def damaged(content):
        content["state_dict"]["model.backbone.blocks.0.mlp.fc2.weight"][3, 5] = float("nan")

    for edit, message in ((resized, "resize_short=20000"), (huge, "scores .* are not finite")):
        hostile = edited(checkpoint, tmp_path / f"{edit.__name__}.ckpt", edit)
        out = tmp_path / edit.__name__
        with pytest.raises(
            ValueError, match=rf"3 input\(s\) failed, 0 done; the first: .*{message}"
        ):
            run(hostile, out, input=data / "images/val", batch_size=2)
        assert len(json.loads((out / "result.json").read_text())["failed"]) == 3
        assert not list(out.rglob("*.png"))
    hostile = edited(checkpoint, tmp_path / "damaged.ckpt", damaged)
    with pytest.raises(ValueError, match=r"the first in model\.backbone\.blocks\.0\.mlp\.fc2"):
        run(hostile, tmp_path / "damaged", input=data / "images/val")


def test_labels_that_are_all_ignored_are_told(checkpoint, data, tmp_path, capfd):
    for path in (data / "images/val").iterdir():
        ignored = tmp_path / "labels" / f"{path.stem}.png"
        ignored.parent.mkdir(exist_ok=True)
        Image.new("L", Image.open(path).size, 255).save(ignored)
    options = {"input": data / "images/val", "label_ids": "training"}
    result = run(checkpoint, tmp_path / "out", labels=tmp_path / "labels", **options)
    assert (result["status"], result["mIoU"]) == ("completed", None)
    assert "no pixel has a label that counts" in result["problems"][0]
    assert f"stepseg-predict: {result['problems'][0]}" in capfd.readouterr().err
    root = write_camvid(tmp_path / "camvid", train=1, val=1)
    for path in (root / "annotations/val").iterdir():
        Image.new("L", Image.open(path).size, 11).save(path)
    typed = [f"ckpt_path={checkpoint}", "data=camvid", f"data.root={root}", "data.num_workers=0"]
    with pytest.raises(ValueError, match="no pixel has a label that counts"):
        evaluate(compose_config("eval", [*typed, "logger=none"], tmp_path / "eval"))
    assert json.loads((tmp_path / "eval/result.json").read_text())["status"] == "failed"


def encoded(kind, **options):
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, kind, **options)
    return file.getvalue()


def cut(content):
    return content[: len(content) * 3 // 4]


BAD = {
    b"cut.avif": cut(encoded("AVIF")),
    b"turned_over.avif": encoded("AVIF")[:200] + bytes(200),
    b"texture.png": encoded("DDS"),
    b"cut.jp2": cut(encoded("JPEG2000")),
    b"large.jp2": encoded("JPEG2000").replace(
        struct.pack(">II", 32, 32), struct.pack(">II", 2**31 - 1, 2**31 - 1)
    ),
    b"drawing.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
    b"twelve_bits.png": encoded("PNG").replace(b"IHDR", b"JHDR"),
    b"n" * 251 + b".png": encoded("PNG"),  # its record would have a byte too many
    b"list.mp4": b"ffconcat version 1.0\nfile good.mp4\n",
}
GOOD = (b"a.png", b"m" * 245 + b".png", b"caf\xe9.png", b"z.png")


def test_every_bad_file_fails_by_itself(checkpoint, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, content in (BAD | dict.fromkeys(GOOD, encoded("PNG"))).items():
        Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(content)
    out = tmp_path / "out"
    inputs = f"[{folder},{folder}/list.mp4]"
    with pytest.raises(ValueError, match=rf"{len(BAD)} input\(s\) failed, {len(GOOD)} done"):
        run(checkpoint, out, input=inputs, batch_size=2, pictures="[overlay]")
    result = json.loads((out / "result.json").read_text())
    failed = [os.path.basename(os.fsencode(entry["source"])) for entry in result["failed"]]
    assert sorted(failed) == sorted(BAD)
    assert all("\n" not in entry["error"] for entry in result["failed"])
    written = [os.fsencode(path.name) for path in (out / "labels").iterdir()]
    assert sorted(written) == sorted(GOOD)
    table = (out / "images.csv").read_text()
    assert table.count("\n") == 1 + len(BAD) + len(GOOD)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
@pytest.mark.parametrize("where", ["decode", "predict", "draw"])
def test_too_little_memory_for_one_image_leaves_the_others(
    where, error, checkpoint, tmp_path, monkeypatch
):
    place = {
        "decode": "stepseg.data.files.rgb_pixels",
        "predict": "stepseg.predict.segmenter.predict_map",
        "draw": "stepseg.predict.outputs.save_picture",
    }[where]
    module, name = place.rsplit(".", 1)
    whole = getattr(importlib.import_module(module), name)
    calls = []

    def second_fails(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
        return whole(*arguments, **options)

    monkeypatch.setattr(place, second_fails)
    for name in "abc":
        write_image(tmp_path / f"in/{name}.png")
    if where == "draw" and error is RuntimeError:
        pytest.skip("nothing there allocates in PyTorch")
    with pytest.raises(ValueError, match=r"1 input\(s\) failed, 2 done.*memory"):
        run(checkpoint, tmp_path / "out", input=tmp_path / "in", pictures="[overlay]")


def test_a_full_disk_ends_the_run(checkpoint, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("stepseg.predict.outputs.save_picture", full)
    for name in "ab":
        write_image(tmp_path / f"in/{name}.png")
    with pytest.raises(OSError, match="No space left"):
        run(checkpoint, tmp_path / "out", input=tmp_path / "in", pictures="[overlay]")


def test_a_second_run_does_what_is_left(checkpoint, data, tmp_path):
    def outcome(**options):
        result = run(checkpoint, tmp_path, input=data / "images/val", **options)
        return result["images"], result["finished_before"]

    def written():
        return {f.name: f.stat().st_mtime_ns for f in (tmp_path / "labels").iterdir()}

    assert outcome(labels=data / "annotations/val") == (3, 0)
    first = written()
    before = json.loads((tmp_path / "result.json").read_text())
    assert outcome(labels=data / "annotations/val") == (3, 3)
    assert written() == first
    again = json.loads((tmp_path / "result.json").read_text())
    for key in ("mIoU", "gmacs_mean", "tokens_per_stage"):
        assert again[key] == before[key]
    (tmp_path / "labels/001.png").unlink()
    (tmp_path / "records/002.json").write_text("{")  # cut off
    assert outcome(labels=data / "annotations/val") == (3, 1)
    assert written()["000.png"] == first["000.png"]
    assert outcome() == (3, 0)  # without labels: other settings
    assert outcome(**{"reduction.exit.threshold": 0.6}) == (3, 0)
    assert outcome(**{"reduction.exit.threshold": 0.6, "overwrite": "true"}) == (3, 0)


def test_a_changed_image_is_done_again(checkpoint, tmp_path):
    image = write_image(tmp_path / "in" / "a.png")
    run(checkpoint, tmp_path / "out", input=tmp_path / "in")
    write_image(image, 48, 32)
    assert run(checkpoint, tmp_path / "out", input=tmp_path / "in")["finished_before"] == 0
    assert labels_in(tmp_path / "out")["a.png"].shape == (48, 32)


def test_a_changed_label_is_compared_again(checkpoint, tmp_path):
    image = write_image(tmp_path / "in" / "a.png")
    label = tmp_path / "labels" / "a.png"
    label.parent.mkdir()
    options = {"input": image, "labels": label.parent, "label_ids": "training"}
    options["pictures"] = "[difference]"
    found, pictures = [], []
    for value in (255, 0, 1):  # ignored, and two classes of which not both can be everywhere
        Image.new("L", (56, 40), value).save(label)
        os.utime(label, ns=(0, 10**18 + value))
        assert run(checkpoint, tmp_path / "out", **options)["finished_before"] == 0
        record = json.loads((tmp_path / "out/records/a.json").read_text())
        found.append(record["pixel_accuracy"])
        pictures.append((tmp_path / "out/difference/a.png").read_bytes())
    assert found[0] is None
    assert found[1] is not None
    assert len(set(pictures)) == 3
    assert run(checkpoint, tmp_path / "out", **options)["finished_before"] == 1


def test_an_image_that_vanishes_fails_by_itself(checkpoint, tmp_path, monkeypatch):
    for name in "ab":
        write_image(tmp_path / f"in/{name}.png")
    whole = runner_module.items_of

    def vanishing(files, frames):
        if files[0].name == "b":
            files[0].path.unlink()
        return whole(files, frames)

    monkeypatch.setattr(runner_module, "items_of", vanishing)
    with pytest.raises(
        ValueError, match=r"1 input\(s\) failed, 1 done; .*b\.png: .*vanished since"
    ):
        run(checkpoint, tmp_path / "out", input=tmp_path / "in")


def test_a_submission_of_two_videos_is_refused(checkpoint, tmp_path):
    pytest.importorskip("av")
    for name in "ab":
        (tmp_path / f"{name}.mp4").touch()
    both = f"[{tmp_path}/a.mp4,{tmp_path}/b.mp4]"
    with pytest.raises(ValueError, match="a/frame_000000 and b/frame_000000 would have the same"):
        run(checkpoint, tmp_path / "out", input=both, submission="true")


def test_too_little_memory_falls_back_to_single_images(checkpoint, data, tmp_path, monkeypatch):
    whole = runner_module.Segmenter.predict_pixels

    def limited(self, images):
        if len(images) > 1 or images[0].shape[0] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, images)

    monkeypatch.setattr(runner_module.Segmenter, "predict_pixels", limited)
    assert run(checkpoint, tmp_path / "a", input=data / "images/val", batch_size=3)["images"] == 3
    big = write_image(tmp_path / "big.png", 80, 48)
    with pytest.raises(ValueError, match=r"48x80 pixels at once .* use protocol=slide"):
        run(checkpoint, tmp_path / "b", input=big)


def test_shared_checkpoints_give_the_same_labels(checkpoint, data, tmp_path):
    shared = tmp_path / "shared.safetensors"
    write_inference_checkpoint(shared, read_checkpoint(checkpoint))
    run(checkpoint, tmp_path / "a", input=data / "images/val/000.png")
    run(shared, tmp_path / "b", input=data / "images/val/000.png")
    assert (labels_in(tmp_path / "a")["000.png"] == labels_in(tmp_path / "b")["000.png"]).all()


def test_reductions_of_the_command_line(checkpoint, data, tmp_path):
    result = run(checkpoint, tmp_path, "reduction=none", input=data / "images/val")
    assert result["tokens_per_stage"] == [24.0]
    assert result["exited_per_head"] == []


def test_frames_of_a_video(checkpoint, tmp_path):
    pytest.importorskip("av")
    from fractions import Fraction

    from stepseg.predict.video import read_frames, write_video

    frames = [np.full((50, 71, 3), 40 * index, np.uint8) for index in range(5)]
    clip = tmp_path / "clip.mp4"
    write_video(clip, frames, Fraction(5))
    decoded = dict(read_frames(clip, 2))
    assert list(decoded) == [0, 2, 4]
    assert decoded[4].shape == (50, 70, 3)  # odd sides lose a pixel
    assert abs(int(decoded[2].mean()) - 80) < 8
    out = tmp_path / "out"
    result = run(checkpoint, out, input=clip, frames=2, mp4="true", pictures="[overlay]")
    assert list(labels_in(out)) == [f"clip/frame_{i:06d}.png" for i in (0, 2, 4)]
    assert result["videos"] == ["videos/clip.mp4"]
    assert len(list(read_frames(out / "videos/clip.mp4"))) == 3
    (tmp_path / "broken.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"broken\.mp4: cannot read this video"):
        run(checkpoint, tmp_path / "b", input=tmp_path / "broken.mp4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "null"}, "input= is missing"),
        ({"ckpt_path": "null"}, "ckpt_path= is missing"),
        ({"input": "absent.png"}, r"input='absent\.png' does not exist"),
        ({"input": "absent*.png"}, "no file matches"),
        ({"input": "EMPTY"}, "is empty"),
        ({"pictures": "[token]"}, "a list of colours, overlay"),
        ({"pictures": "[difference]"}, "needs labels="),
        ({"batch_size": 0}, "batch_size is a number of at least 1"),
        ({"mp4": "true"}, "add overlay to pictures"),
        ({"protocol": "tiles"}, "'whole' or 'slide'"),
        ({"protocol": "slide"}, "needs crop"),
        ({"labels": "absent"}, "labels='absent' is not a folder"),
        ({"labels": "EMPTY"}, r"no label of any input; .*000\.png"),
        ({"label_ids": "raw", "labels": "EMPTY"}, "choose from published, training"),
        ({"dtype": "fp16"}, "choose from fp32, bf16"),
        ({"ckpt_path": "FOREIGN"}, "is not a stepseg checkpoint"),
    ],
)
def test_requests_that_cannot_work(options, message, checkpoint, data, tmp_path):
    (tmp_path / "empty").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    places = {"EMPTY": tmp_path / "empty", "FOREIGN": tmp_path / "foreign.ckpt"}
    options = {key: places.get(value, value) for key, value in options.items()}
    with pytest.raises(ValueError, match=message):
        run(checkpoint, tmp_path / "out", **{"input": data / "images/val", **options})
    assert not (tmp_path / "out/labels").exists()


def test_the_output_never_lies_over_the_input(checkpoint, tmp_path):
    source = tmp_path / "in"
    image = write_image(source / "a.png")
    with pytest.raises(ValueError, match="same folder"):
        run(checkpoint, source, input=source)
    assert [f.name for f in source.iterdir()] == ["a.png"]
    with pytest.raises(ValueError, match="lies in the output folder"):
        run(checkpoint, source, input=image)
    # inside the input is fine, as often as one likes
    for before in (0, 1):
        result = run(checkpoint, source / "out", input=source, pictures="[overlay]")
        assert (result["images"], result["finished_before"]) == (1, before)


def test_the_command_line(checkpoint, tmp_path):
    source = write_image(tmp_path / "in" / "a b.png").parent
    (source / "b.jpg").write_text("no image")
    command = [sys.executable, "-m", "stepseg.cli.predict", f"ckpt_path={checkpoint}",
               f"input={source}", f"output={tmp_path / 'out'}", "device=cpu"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=200
    )
    assert done.returncode == 2, done.stderr
    assert "b.jpg: cannot read this image" in done.stderr
    assert "Traceback" not in done.stderr
    kinds = {"labels", "colours", "overlay", "superpatches", "records"}
    assert {f.name for f in (tmp_path / "out").iterdir()} == {*kinds, "result.json", "images.csv"}


def test_an_interrupted_run_says_what_it_did(checkpoint, data, tmp_path, monkeypatch):
    whole = runner_module.Segmenter.predict_pixels
    calls = []

    def interrupted(self, images):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, images)

    monkeypatch.setattr(runner_module.Segmenter, "predict_pixels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, tmp_path, input=data / "images/val")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["images"]) == ("interrupted", 2)
    monkeypatch.undo()
    result = run(checkpoint, tmp_path, input=data / "images/val")
    assert (result["images"], result["finished_before"]) == (3, 2)


DOCS = Path(__file__).parents[2] / "docs" / "predict.md"


def test_the_documented_example_runs(checkpoint, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image.Image, "show", lambda self: None)
    (tmp_path / "best.ckpt").write_bytes(checkpoint.read_bytes())
    write_image(tmp_path / "street.jpg")
    write_image(tmp_path / "square.jpg", 32, 32)
    names = {}
    exec(compile(code, DOCS.name, "exec"), names)
    assert sum(names["result"].superpatches.values()) <= 4
    assert (tmp_path / "labels.png").is_file()
    assert (tmp_path / "exits.png").is_file()


def test_the_documentation_names_every_option_and_picture():
    text = DOCS.read_text()
    options = yaml.safe_load((DOCS.parents[1] / "conf" / "predict.yaml").read_text())
    for option in options.keys() - {"defaults", "hydra", "ckpt_path", "user"}:
        assert f"`{option}`" in text, option
    assert re.findall(r"^\| `(\w+)` \| ", text.split("| kind |")[1], re.MULTILINE) == list(KINDS)
