"""The Lightning data module: every data set through all loaders, resuming, several ranks."""

from itertools import islice
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from stepseg.data.transforms import Augmentation
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.protocol import Protocol

SMALL = {"crop_size": (32, 40), "batch_size": 2}
NAMES = ["ade20k", "camvid", "cityscapes", "cocostuff10k", "folder"]


class Recorder(L.LightningModule):
    """Keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = {"train": [], "val": [], "test": []}

    def note(self, split, batch):
        digest = [int(image.long().sum()) for image in batch["image"]]
        self.seen[split] += list(zip(batch["name"], digest, strict=True))

    def training_step(self, batch):
        self.note("train", batch)
        return self.weight.sum()

    def validation_step(self, batch):
        self.note("val", batch)

    def test_step(self, batch):
        self.note("test", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer(**kwargs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    kwargs = {"enable_checkpointing": False, "num_sanity_val_steps": 0, **quiet, **kwargs}
    return L.Trainer(accelerator="cpu", use_distributed_sampler=False, max_epochs=-1, **kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_through_training_validation_and_test(name, roots):
    datamodule = SegmentationDataModule(name, roots[name], num_workers=2, **SMALL)
    module, trainer = Recorder(), make_trainer(max_steps=4, val_check_interval=2)
    trainer.fit(module, datamodule)
    trainer.test(module, datamodule, verbose=False)
    assert len(module.seen["train"]) == 8
    assert len(module.seen["val"]) == 2 * 3
    assert len(module.seen["test"]) == 3
    first_pass = [name for name, _ in module.seen["train"]][:5]
    assert len(set(first_pass)) == len(first_pass)


def test_batches_follow_the_contract(roots):
    datamodule = SegmentationDataModule("camvid", roots["camvid"], val_batch_size=2, **SMALL)
    batch = next(iter(datamodule.train_dataloader()))
    assert batch["image"].shape == (2, 3, 32, 40)
    assert batch["label"].shape == (2, 32, 40)
    assert batch["image"].dtype == batch["label"].dtype == torch.uint8
    assert all(isinstance(name, str) for name in batch["name"])
    val = list(datamodule.val_dataloader())
    assert [len(b["name"]) for b in val] == [2, 1]
    assert val[0]["label"].shape == (2, 48, 64)  # full size
    assert datamodule.num_classes == datamodule.spec.num_classes == 11
    assert datamodule.protocol == Protocol()


def test_whole_training_images_come_evenly_and_once_over_all_ranks(roots, monkeypatch):
    datamodule = SegmentationDataModule("camvid", roots["camvid"], on_error="skip", **SMALL)
    pairs = datamodule.dataset("train").pairs
    assert len(pairs) == 5
    for count, expected in ((3, [0, 1, 3]), (100, range(5))):
        seen = []
        for rank in range(2):
            monkeypatch.setattr(datamodule, "_rank_and_world", lambda rank=rank: (rank, 2))
            seen += list(datamodule.whole_train_images(count))
        assert {tuple(batch["image"].shape) for batch in seen} == {(1, 3, 48, 64)}  # no crops
        names = sorted(name for batch in seen for name in batch["name"])
        assert names == [pairs[row].name for row in expected]
    assert list(datamodule.whole_train_images(1)) == []  # the second of two ranks


def test_settings_may_be_plain_values_or_objects(roots):
    plain = SegmentationDataModule(
        "camvid",
        str(roots["camvid"]),
        crop_size=[32, 40],
        augmentation={"resize_ratio": [1.0, 1.5], "flip": 0.0},
        evaluation={"mode": "slide", "crop": [32, 32], "stride": [16, 16]},
    )
    objects = SegmentationDataModule(
        "camvid",
        roots["camvid"],
        augmentation=Augmentation(resize_ratio=(1.0, 1.5), flip=0.0),
        evaluation=Protocol("slide", crop=(32, 32), stride=(16, 16)),
    )
    assert plain.augmentation == objects.augmentation
    assert plain.protocol == objects.protocol
    assert plain.crop_size == (32, 40)


def test_one_number_is_both_sides(roots):
    evaluation = {"mode": "slide", "crop": 64, "stride": 32}
    datamodule = SegmentationDataModule(
        "camvid", roots["camvid"], crop_size=64, evaluation=evaluation
    )
    assert datamodule.crop_size == (64, 64)
    assert datamodule.protocol == Protocol("slide", crop=(64, 64), stride=(32, 32))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"image_size": (64, 64)}, r"\['image_size'\].*'camvid'"),
        ({"crop_size": [64]}, r"data\.crop_size is \[height, width\] in pixels.*got \[64\]"),
        ({"crop_size": [64, 64, 64]}, r"data\.crop_size is \[height, width\] in pixels"),
        ({"crop_size": "big"}, r"data\.crop_size is \[height, width\] .* got 'big'"),
        ({"crop_size": [64, 64.5]}, r"data\.crop_size is \[height, width\] .* 64\.5"),
        ({"crop_size": 8}, r"data\.crop_size needs 16 x 16 px or more, got \(8, 8\)"),
        ({"batch_size": "big"}, r"data\.batch_size is a whole number, at least 1, got 'big'"),
        ({"val_batch_size": 1.5}, r"data\.val_batch_size is a whole number.* got 1\.5"),
        ({"num_workers": None}, r"data\.num_workers is a whole number.* got None"),
        ({"seed": "one"}, r"data\.seed is a whole number, got 'one'"),
        ({"batch_size": 0}, "data.batch_size is at least 1, got 0"),
        ({"num_workers": -1}, "data.num_workers is at least 0, got -1"),
    ],
)
def test_impossible_settings_are_refused(kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SegmentationDataModule("camvid", tmp_path, **kwargs)


def test_generated_scenes_are_drawn_on_demand(tmp_path, capsys):
    def make():
        return SegmentationDataModule(
            "synthetic", tmp_path, image_size=(64, 96), train_images=4, val_images=3, **SMALL
        )

    make().prepare_data()
    (folder,) = tmp_path.iterdir()
    assert f"7 are drawn, once, into {folder}" in capsys.readouterr().err
    module, trainer = Recorder(), make_trainer(max_steps=1)
    trainer.fit(module, make())
    assert "drawn" not in capsys.readouterr().err
    assert len(module.seen["train"]) == 2
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    assert make().dataset("val")[0]["label"].max() < 8


def test_mixed_sizes_need_a_batch_of_one(tmp_path, builders):
    from PIL import Image

    root = builders["camvid"](tmp_path)
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        path = root / kind / "val" / f"0001.{suffix}"
        Image.open(path).crop((0, 0, 32, 48)).save(path)
    datamodule = SegmentationDataModule("camvid", root, val_batch_size=3)
    with pytest.raises(ValueError, match=r"data\.val_batch_size=1"):
        next(iter(datamodule.val_dataloader()))
    assert len(list(SegmentationDataModule("camvid", root).val_dataloader())) == 3


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("limit", [None, 100])
def test_resuming_in_mid_training_shows_the_same_samples(tmp_path, roots, num_workers, limit):
    def run(steps, ckpt_path=None):
        datamodule = SegmentationDataModule(
            "camvid", roots["camvid"], num_workers=num_workers, seed=3, **SMALL
        )
        module = Recorder()
        trainer = make_trainer(
            max_steps=steps,
            val_check_interval=2,
            limit_train_batches=limit,
            accumulate_grad_batches=2,
        )
        trainer.fit(module, datamodule, ckpt_path=ckpt_path, weights_only=True)
        return module.seen["train"], trainer

    whole, _ = run(5)
    begun, trainer = run(3)
    trainer.save_checkpoint(tmp_path / "middle.ckpt")
    rest, again = run(5, ckpt_path=str(tmp_path / "middle.ckpt"))
    assert begun + rest == whole
    assert len(whole) == 5 * 2 * 2  # steps, accumulated batches, samples
    # and the resumed run can be resumed in turn
    again.save_checkpoint(tmp_path / "late.ckpt")
    late = torch.load(tmp_path / "late.ckpt", weights_only=True)
    (state,) = late["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert state == {"position": 20, "seed": 3, "num_samples": 5}


def test_checkpoint_inside_training_has_the_position_of_its_step(tmp_path, roots):
    from lightning.pytorch.callbacks import ModelCheckpoint

    datamodule = SegmentationDataModule("camvid", roots["camvid"], num_workers=2, **SMALL)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = make_trainer(max_steps=3, callbacks=[keep], enable_checkpointing=True)
    trainer.fit(Recorder(), datamodule)
    for step in (1, 2, 3):
        saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)
        (state,) = saved["loops"]["fit_loop"]["state_dict"]["combined_loader"]
        assert state["position"] == 2 * step


def as_rank(number, world=2):
    """What the loaders ask a trainer of several processes."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=0))
    fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(global_rank=number, world_size=world, fit_loop=fit_loop)


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_share_training_batches_and_divide_the_test(name, roots):
    common = {"crop_size": (32, 40), "seed": 4, "num_workers": 2 if name == "camvid" else 0}
    ranks = []
    for rank in range(2):
        datamodule = SegmentationDataModule(name, roots[name], batch_size=1, **common)
        datamodule.trainer = as_rank(rank)
        ranks.append(Recorder())
        for batch in islice(datamodule.train_dataloader(), 3):
            ranks[-1].note("train", batch)
        for split, loader in (
            ("val", datamodule.val_dataloader()),
            ("test", datamodule.test_dataloader()),
        ):
            for batch in loader:
                ranks[-1].note(split, batch)
    one = SegmentationDataModule(name, roots[name], batch_size=2, **common)
    expected = Recorder()
    for batch in islice(one.train_dataloader(), 3):
        expected.note("train", batch)
    together = [ranks[i % 2].seen["train"][i // 2] for i in range(6)]
    assert together == expected.seen["train"]
    for split in ("val", "test"):
        seen = [name for rank in ranks for name, _ in rank.seen[split]]
        assert seen == [pair.name for pair in one.dataset(split).pairs]
        assert sorted(len(rank.seen[split]) for rank in ranks) == [1, 2]
