"""Rows of other images, or shown otherwise, stand apart; older results are read as ever."""

from dataclasses import replace
from pathlib import Path

import pytest

from run_results import EXIT, MERGE, accuracy_row, evaluation, training, write
from stepseg.report.published import load_published, match
from stepseg.report.rows import rows_of_runs
from stepseg.report.runs import Run
from stepseg.report.summaries import summarise

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
WHOLE = accuracy_row(30.0, 3.0)["protocol"]
SLIDE = {**WHOLE, "mode": "slide", "crop": [160, 160], "stride": [100, 100]}
NOISE = {"corruption": {"kind": "noise", "strength": 1, "seed": 0}}


def rows_of(*values):
    runs = [Run(Path(f"run{i}/result.json"), v) for i, v in enumerate(values)]
    rows, problems = rows_of_runs(runs)
    assert problems == []
    return rows


def arenas_of(*values, ignore=()):
    return summarise(rows_of(*values), ignore)


def of_data(mIoU=30.0, seed=0, protocol=WHOLE, **data):
    """An evaluation with other keys in `data`."""
    values = evaluation([accuracy_row(mIoU, 3.0, protocol=protocol)], seed)
    return values | {"config": values["config"] | {"data": values["config"]["data"] | data}}


def prediction(mIoU=30.0, **changes):
    """A prediction with labels: figures beside the rest, no configuration of data."""
    config = {"ckpt_path": "far/away.ckpt", "input": "photos", "labels": "truth"}
    row = accuracy_row(mIoU, 3.0)
    values = evaluation([]) | row | {"command": "stepseg-predict", "data": "camvid", "seed": None}
    del values["rows"], values["name"]
    config |= changes.pop("config", {})
    return values | {"config": config} | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (NOISE, "noise, strength 1"),
        ({"corruption": {"kind": "blur", "strength": 2, "seed": 0}}, "blur, strength 2"),
        ({"test_split": "train"}, "split train"),
        ({"protocol": {**WHOLE, "antialias": True}}, "antialiased"),
        ({"protocol": {**SLIDE, "stride": None, "even": True}}, "crop 160 even"),
    ],
)
def test_images_that_are_shown_otherwise_have_a_table_of_their_own(changes, words):
    usual = of_data(protocol=SLIDE if "slide" in str(changes) else WHOLE)
    arenas, notices = arenas_of(training(0), usual, of_data(40.0, **changes))
    means = {line.mean("mIoU") for arena in arenas for line in arena.summaries}
    assert [len(arena.summaries) for arena in arenas] == [1, 1]
    assert means == {30.0, 40.0}
    assert notices == []
    assert sum(words in arena.title for arena in arenas) == 1
    same, _ = arenas_of(of_data(**changes), of_data(**changes))
    assert len(same) == 1


@pytest.mark.parametrize("field", ["corruption", "split"])
def test_other_images_cannot_be_ignored(field):
    with pytest.raises(ValueError, match=f"'{field}' are never averaged"):
        arenas_of(of_data(), of_data(**NOISE), ignore=[field])


def test_older_results_lack_what_newer_ones_leave_at_its_default():
    newer = of_data(
        34.0, 1, {**WHOLE, "even": False, "antialias": False},
        test_split="val", corruption={"kind": None, "strength": 1, "seed": 0},
    )  # fmt: skip
    (arena,), _ = arenas_of(training(0), training(1), of_data(30.0), newer)
    (line,) = arena.summaries
    assert line.figures["mIoU"].mean == 32.0
    assert arena.title == "camvid, 3 classes, 24 images, 690 patches, whole"


def test_other_noise_of_one_strength_is_a_repetition():
    drawn = [of_data(corruption=NOISE["corruption"] | {"seed": seed}) for seed in (0, 1)]
    assert [row.seed for row in rows_of(training(0), *drawn)] == ["0/0", "0/1"]
    (jpeg,) = rows_of(of_data(corruption={"kind": "jpeg", "strength": 1, "seed": 5}))
    assert jpeg.seed == "0"


def test_a_training_is_of_its_validation_until_it_is_tested():
    data = {"name": "camvid", "val_split": "dev", "test_split": "late", **NOISE}
    figures = {key: value for key, value in accuracy_row(30.0, 3.0).items() if key != "name"}
    validated, tested = training(**figures), training(rows=[accuracy_row(30.0, 3.0)])
    for values in (validated, tested):
        values["config"] = values["config"] | {"data": data}
    del validated["rows"]
    rows = rows_of(validated, tested)
    assert [row.fields["split"] for row in rows] == ["dev", "late"]
    assert [row.fields["corruption"] for row in rows] == [None, "noise, strength 1"]


def test_a_prediction_stands_under_the_data_set_that_its_model_knows():
    """Which may be of any images, so that equal counts do not make it comparable."""
    other = prediction(data="ade20k", data_name="ade20k")
    folders = prediction(config={"input": ["a.png", "b.png", "c.png"], "labels": "more"})
    read = prediction(config={"label_ids": "training"})
    arenas, _ = arenas_of(of_data(), prediction(), other, folders, read)
    assert [arena.title for arena in arenas] == [
        "ade20k, 3 classes, 24 images, pictures photos, labels truth, 690 patches, whole",
        "camvid, 3 classes, 24 images, 690 patches, whole",
        "camvid, 3 classes, 24 images, pictures a.png, b.png and 1 more, labels more, "
        "690 patches, whole",
        "camvid, 3 classes, 24 images, pictures photos, labels truth (training ids), "
        "690 patches, whole",
        "camvid, 3 classes, 24 images, pictures photos, labels truth, 690 patches, whole",
    ]


def test_published_figures_beside_other_images_say_so():
    values = of_data(name="ade20k", test_split="train", **NOISE)
    values["rows"] = [accuracy_row(34.0, 3.0, MERGE, EXIT, per_class_IoU=[34.0] * 150)]
    arenas, _ = arenas_of(values)
    entries = [e for e in load_published(EXPERIMENTS) if e.figures.get("mIoU")]
    text = dict(entries[0].text) | dict.fromkeys(("backbone", "resolution", "tau", "note"), "")
    text |= {"system": "STEP", "dataset": "ade20k", "exit_blocks": "6 8"}
    text |= {"comparable_resolution": "", "statistic": ""}
    (found, *_) = match(arenas, [replace(entries[0], text=text)])
    assert found.note == "ours of split train, noise, strength 1"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("checkpoints/best.ckpt", None),
        ("checkpoints/last.ckpt", "checkpoints/last.ckpt"),
        ("checkpoints/previous.ckpt", "checkpoints/previous.ckpt"),
        ("", None),  # the folder of a run means its best
    ],
)
def test_other_files_of_a_training_are_other_weights(file, words, tmp_path):
    values = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        write(folder, training(seed, checkpoint="/before/it/moved/checkpoints/best.ckpt"))
        for used, mIoU in (("checkpoints/best.ckpt", 30.0), (file, 40.0)):
            run = evaluation([accuracy_row(mIoU + seed, 3.0)])
            values.append(run | {"config": run["config"] | {"ckpt_path": str(folder / used)}})
    (arena,), notices = arenas_of(*values)
    if words is None:
        assert [line.mean("mIoU") for line in arena.summaries] == [35.5]
        assert "checkpoint" not in arena.summaries[0].fields
        return
    assert sorted(line.mean("mIoU") for line in arena.summaries) == [30.5, 40.5]
    assert notices == []
    assert arena.differing == ("checkpoint",)
    assert {line.fields.get("checkpoint") for line in arena.summaries} == {None, words}
    assert [line.seeds for line in arena.summaries] == [("0", "1")] * 2


def test_the_folder_of_a_run_that_ended_early_means_its_best(tmp_path):
    write(tmp_path, training(0, checkpoint=str(tmp_path / "checkpoints/last.ckpt")))
    run = evaluation([accuracy_row(30.0, 3.0)])
    (row,) = rows_of(run | {"config": run["config"] | {"ckpt_path": str(tmp_path)}})
    assert row.fields["checkpoint"] == "checkpoints/best.ckpt"
