import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from stepseg.data.dataset import SegmentationDataset
from stepseg.data.scenes.drive import draw_drive
from stepseg.data.scenes.street import draw_scene
from stepseg.data.specs import get_spec
from stepseg.data.synthetic import KINDS, SceneParameters, draw_scenes, ensure_scenes, scene_root

SMALL = SceneParameters(image_size=(64, 96), train_images=3, val_images=2)


@pytest.mark.parametrize("draw", [draw_scene, draw_drive])
def test_a_scene_is_a_function_of_its_seed(draw):
    image, label = draw(128, 160, (0, 1, 2))
    again, label_again = draw(128, 160, (0, 1, 2))
    assert np.array_equal(image, again)
    assert np.array_equal(label, label_again)
    assert not np.array_equal(image, draw(128, 160, (0, 1, 3))[0])
    assert image.shape == (128, 160, 3)
    assert label.shape == (128, 160)
    assert image.dtype == label.dtype == np.uint8


def test_a_drive_has_all_classes_of_camvid_where_they_belong():
    labels = np.stack([draw_drive(72, 96, (0, 0, i))[1] for i in range(40)])
    names = get_spec("drives").classes
    assert names == get_spec("camvid").classes
    share = np.bincount(labels.ravel(), minlength=12)[:11] / labels.size
    assert share.min() > 0.001, dict(zip(names, share, strict=True))
    top, bottom = labels[:, :30], labels[:, -20:]
    of_sky, of_road = names.index("sky"), names.index("road")
    assert (top == of_sky).mean() > 0.3 > 0.01 > (bottom == of_sky).mean()
    assert (bottom == of_road).mean() > 0.6 > 0.01 > (top == of_road).mean()


def test_kinds_of_scenes_have_folders_of_their_own_and_old_caches_are_found():
    assert SceneParameters(kind="drives").digest() != SceneParameters().digest()
    assert SceneParameters().digest() == "34b99b896250"  # of caches that hold one kind
    with pytest.raises(ValueError, match="synthetic or drives, not 'sea'"):
        SceneParameters(kind="sea")


def oracle_tokens(label, patch=16):
    """Tokens left when every window of one class is merged, from 16 x 16 patches downwards."""
    rows, columns = label.shape[0] // patch, label.shape[1] // patch
    free = np.ones((rows, columns), dtype=bool)
    tokens = 0
    for window in (16, 8, 4, 2):
        for y in range(0, rows - window + 1, window):
            for x in range(0, columns - window + 1, window):
                cells = label[y * patch : (y + window) * patch, x * patch : (x + window) * patch]
                if free[y : y + window, x : x + window].all() and (cells == cells[0, 0]).all():
                    free[y : y + window, x : x + window] = False
                    tokens += 1
    return tokens + int(free.sum())


def test_merging_saves_more_than_half_of_the_tokens():
    labels = [draw_scene(512, 512, (0, 1, i))[1] for i in range(12)]
    saved = 1 - np.mean([oracle_tokens(label) for label in labels]) / 32**2
    assert 0.5 < saved < 0.7


def test_all_classes_occur_and_none_is_negligible():
    labels = np.stack([draw_scene(256, 256, (0, 0, i))[1] for i in range(30)])
    share = np.bincount(labels.ravel(), minlength=8) / labels.size
    assert len(share) == 8
    assert share.min() > 0.01
    assert share.max() < 0.45


def test_classes_are_not_told_apart_by_colour_alone():
    # nearest mean colour, fitted on the very images it is tested on
    scenes = [draw_scene(128, 128, (0, 0, i)) for i in range(20)]
    colours = np.concatenate([image.reshape(-1, 3) for image, _ in scenes]).astype(float)
    labels = np.concatenate([label.reshape(-1) for _, label in scenes])
    means = np.stack([colours[labels == c].mean(0) for c in range(8)])
    guess = ((colours[:, None] - means) ** 2).sum(-1).argmin(1)
    ious = []
    for c in range(8):
        both = ((guess == c) & (labels == c)).sum()
        ious.append(both / ((guess == c) | (labels == c)).sum())
    assert np.mean(ious) < 0.6


def test_cache_is_made_once_and_reads_as_a_data_set(tmp_path):
    root = ensure_scenes(tmp_path, SMALL, processes=1)
    assert root == scene_root(tmp_path, SMALL)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.png")}
    assert ensure_scenes(tmp_path, SMALL, processes=1) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.png")} == before
    assert len(before) == 2 * (3 + 2)
    spec = get_spec("synthetic")
    train, val = (SegmentationDataset(spec, root, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (3, 2)
    assert train[0]["image"].shape == (3, 64, 96)
    assert not np.array_equal(train[0]["image"], val[0]["image"])
    assert [p.name for p in tmp_path.iterdir()] == [root.name]  # no temporary folders left


def test_processes_do_not_change_the_scenes(tmp_path):
    alone = ensure_scenes(tmp_path / "a", SMALL, processes=1)
    shared = ensure_scenes(tmp_path / "b", SMALL, processes=2)
    for path in alone.rglob("*.png"):
        assert path.read_bytes() == (shared / path.relative_to(alone)).read_bytes()


@pytest.mark.parametrize(
    "other",
    [
        SceneParameters((64, 96), 3, 2, seed=1),
        SceneParameters((96, 64), 3, 2),
        SceneParameters((64, 96), 4, 2),
    ],
)
def test_other_parameters_use_another_folder(other):
    assert other.digest() != SMALL.digest()


def test_a_new_generator_version_uses_another_folder(monkeypatch):
    before = SMALL.digest()
    monkeypatch.setitem(KINDS, "synthetic", (10**6, draw_scene))
    assert SMALL.digest() != before


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(folder, parameters, job):
        raise KeyboardInterrupt

    monkeypatch.setattr("stepseg.data.synthetic._draw_one", fail)
    with pytest.raises(KeyboardInterrupt):
        ensure_scenes(tmp_path, SMALL, processes=1)
    assert list(tmp_path.iterdir()) == []


def test_the_winner_of_two_runs_is_kept(tmp_path, monkeypatch):
    import stepseg.data.synthetic as module

    draw_all = module._draw_all

    def slow(work, parameters, processes):
        draw_all(work, parameters, processes)
        monkeypatch.setattr(module, "_draw_all", draw_all)
        draw_scenes(scene_root(tmp_path, SMALL), SMALL, processes=1)  # another process is done

    monkeypatch.setattr(module, "_draw_all", slow)
    root = ensure_scenes(tmp_path, SMALL, processes=1)
    assert (root / "parameters.json").is_file()
    assert [p.name for p in tmp_path.iterdir()] == [root.name]


def test_a_folder_with_other_contents_is_refused(tmp_path):
    (tmp_path / "photo.png").touch()
    with pytest.raises(ValueError, match="not empty"):
        draw_scenes(tmp_path, SMALL, processes=1)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_parameters_are_written_for_readers(tmp_path):
    root = ensure_scenes(tmp_path, SMALL, processes=1)
    described = json.loads((root / "parameters.json").read_text())
    assert described["image_size"] == [64, 96]
    assert described["seed"] == 0
    with Image.open(root / "annotations/val/00000.png") as label:
        assert label.size == (96, 64)


@pytest.mark.parametrize("wrong", [{"image_size": (32, 512)}, {"train_images": 0}])
def test_impossible_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=r"need at least|scenes need"):
        SceneParameters(**wrong)


def test_drawing_does_not_load_torch():
    code = "import sys, stepseg.data.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
