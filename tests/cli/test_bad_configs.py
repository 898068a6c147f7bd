"""Wrong configurations: each ends in one line that names the key and the remedy."""

import json
import sys

import pytest

from commands import SMALL, compose_config, write_camvid
from stepseg.cli import benchmark, evaluate, export, predict, train
from stepseg.cli.config import checkpoint_reduction, plain
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.model_config import ModelConfig

BAD = {
    # overrides that Hydra refuses
    "backbone=vit_tinny": ["backbone=vit_tinny", "did you mean 'vit_tiny'"],
    "reduction=steps": ["reduction=steps", "did you mean 'step'"],
    "data=camvit": ["data=camvit", "did you mean 'camvid'"],
    "optim.lrr=1": ["unknown key optim.lrr", "did you mean 'optim.lr'"],
    "data.batchsize=1": ["unknown key data.batchsize", "did you mean 'data.batch_size'"],
    "shedule.merge_from=0": ["unknown key shedule.merge_from", "'schedule.merge_from'"],
    "trainer.max_step=3": ["unknown key trainer.max_step", "did you mean 'trainer.max_steps'"],
    "+trainer.foo=${nokey}": ["nokey", "not found"],
    "trainer.max_steps=[3": ["trainer.max_steps=[3: this cannot be read", "a bracket or a quote"],
    # keys that a part does not know
    "+reduction.merge.threshold=[1]": ["unknown key reduction.merge.threshold", "'thresholds'"],
    "+reduction.exit.block=[2]": ["unknown key reduction.exit.block", "did you mean 'blocks'"],
    "+reduction.exits=null": ["unknown key reduction.exits", "did you mean 'exit'"],
    "+loss.focall=1": ["unknown key loss.focall", "did you mean 'focal'"],
    "+optim.weight_deacy=1": ["unknown key optim.weight_deacy", "did you mean 'weight_decay'"],
    "+schedule.exit_form=1": ["unknown key schedule.exit_form", "did you mean 'exit_from'"],
    "+heads.layers=1": ["unknown key heads.layers", "did you mean 'num_layers'"],
    "+backbone.droppath=0": ["unknown key backbone.droppath", "did you mean 'drop_path'"],
    "+policy.window=[2]": ["unknown key policy.window", "did you mean 'windows'"],
    "+data.workers=1": ["unknown key data.workers", "num_workers"],
    "+data.augmentation.flipp=1": ["unknown key data.augmentation.flipp", "'flip'"],
    "+data.evaluation.strid=8": ["unknown key data.evaluation.strid", "'stride'"],
    "+homogeneity.ignore_breaks_homogenity=1": ["unknown key", "'ignore_breaks_homogeneity'"],
    "+monitr=val/mAcc": ["unknown key monitr", "did you mean 'monitor'", "+user.name=value"],
    "experiment=camvid/dirves": ["experiment=camvid/dirves", "did you mean 'camvid/drives'"],
    "data.val_batchsize=4": ["unknown key data.val_batchsize; did you mean 'data.val_batch_size'"],
    "+trainer.devicez=1": ["trainer: ", "devicez"],
    "+callbacks.last.every=1": ["callbacks.last: ", "'every'"],
    # values out of range
    "reduction.merge.thresholds=[0.5,1.5]": ["thresholds", "[0, 1], got 1.5"],
    "reduction.merge.thresholds=[0.5]": ["1 merge thresholds for 2 window sizes"],
    "reduction.merge.thresholds=0.5": ["reduction.merge.thresholds is 0.5, expected tuple"],
    "reduction.merge.windows=[2,3]": ["window sizes", "each divide the next"],
    "reduction.exit.threshold=-0.1": ["exit threshold", "[0, 1], got -0.1"],
    "reduction.exit.blocks=[6]": ["exit block 6 is outside 1..5"],
    "reduction.exit.blocks=[4,2]": ["exit blocks must ascend", "(4, 2)"],
    "reduction.exit.rule=confident": ["reduction.exit.rule", "did you mean 'confidence'"],
    "optim.lr=0": ["optim.lr must be positive, got 0"],
    "optim.lr=fast": ["optim.lr is 'fast', expected float"],
    "optim.lr=nan": ["optim.lr is nan"],
    "optim.schedule=step": ["optim.schedule='step': choose one of cosine, poly, constant"],
    "optim.betas=[0.9]": ["optim.betas is (0.9,)"],
    "loss.label_stride=3": ["loss.label_stride must divide a patch"],
    "loss.class_weights=[1,2]": ["one for each of the 11 classes of camvid, got 2"],
    "schedule.merge_from=2": ["schedule.merge_from is a share in [0, 1], got 2"],
    "heads.dropout=1": ["heads.dropout lies in [0, 1), got 1"],
    "heads.num_layers=0": ["heads.num_layers must be at least 1"],
    "backbone.depth=0": ["backbone.depth", "positive, got 0"],
    "backbone.frozen=true": ["nothing brings its weights", "backbone.pretrained", "init_from"],
    "policy.training=frozen": ["nothing brings its weights", "policy.checkpoint", "init_from"],
    "data.batch_size=0": ["data.batch_size is at least 1, got 0"],
    "data.num_workers=-1": ["data.num_workers is at least 0, got -1"],
    "data.crop_size=[0,64]": ["data.crop_size needs 16 x 16 px or more"],
    "data.crop_size=[32,64]": ["a window of 4 patches needs 64 px, data.crop_size is [32, 64]"],
    "reduction.input.cell=32": ["a window of 4 patches needs 128 px, data.crop_size is [64, 64]"],
    "data.on_error=ignore": ["data.on_error='ignore'", "raise, skip"],
    "data.augmentation.resize_ratio=[2,1]": ["resize_ratio needs 0 < low <= high"],
    "trainer.max_steps=0": ["trainer.max_steps=0", "at least 1"],
    "+trainer.limit_train_batches=2": ["limit_train_batches=2", "no epochs", "trainer.max_steps"],
    "trainer.devices=0": ["trainer.devices=0", "at least 1"],
    "trainer.precision=16-mixed": ["trainer.precision=16-mixed needs a GPU", "bf16-mixed"],
    "trainer.precision=12": ["trainer: ", "Precision", "12"],
    "trainer.val_check_interval=1.5": ["trainer.val_check_interval=1.5", "at least 1"],
    "callbacks.last.every_n_steps=0": ["callbacks.last: every_n_steps must be at least 1, got 0"],
    "callbacks.non_finite.max_in_row=-1": ["max_in_row", "cannot be negative"],
    "seed=-1": ["seed=-1", "0 to 2**32 - 1"],
    "task=dance": ["task='dance'", "known: segmentation, policy"],
    "monitor=val/mIOU": ["monitor='val/mIOU'", "did you mean 'val/mIoU'"],
    "resume.on_change=maybe": ["resume.on_change='maybe'", "refuse or warn"],
    # files that are not there
    "data.root=/nowhere/camvid": ["data.root='/nowhere/camvid'", "stepseg-data prepare camvid"],
    "backbone.checkpoint=/nowhere/v.pth": ["backbone.checkpoint='/nowhere/v.pth'", "not a file"],
    "policy.checkpoint=/nowhere/p.ckpt": ["policy.checkpoint='/nowhere/p.ckpt'", "does not exist"],
    "policy.name=lcnet_51": ["timm has no model 'lcnet_51'"],
    "policy.windows=[2]": ["policy scores windows"],
    "ckpt_path=/nowhere/last.ckpt": ["ckpt_path='/nowhere/last.ckpt' is not a file", "last"],
    "hydra.run.dir=/dev/null/out": ["/dev/null"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"), train=2, val=1)


@pytest.mark.parametrize("override", BAD)
def test_one_line_names_the_key_and_the_remedy(override, data, tmp_path, monkeypatch, capfd):
    def touched(self):
        raise AssertionError("data were touched")

    monkeypatch.setattr(SegmentationDataModule, "prepare_data", touched)
    arguments = ["data=camvid", f"data.root={data}", *SMALL]
    key = override.partition("=")[0]
    arguments = [argument for argument in arguments if argument.partition("=")[0] != key]
    monkeypatch.setattr(sys, "argv", ["stepseg-train", *arguments, *quiet(tmp_path), override])
    check_refusal(train.main, BAD[override], monkeypatch, capfd)
    result = tmp_path / "result.json"  # not of what Hydra refuses
    assert not result.exists() or json.loads(result.read_text())["status"] == "failed"


OTHERS = {
    ("predict", "inptu=photos"): ["unknown key inptu", "did you mean 'input'"],
    ("predict", "reduction=stepp"): ["reduction=stepp", "did you mean 'step'"],
    ("predict", "reduction.exit.treshold=1"): ["unknown key", "'reduction.exit.threshold'"],
    ("predict", "pictures=[exits"): ["pictures=[exits: this cannot be read"],
    ("predict", "+user.note=${nokey}"): ["nokey", "not found"],
    ("predict", "ckpt_path=null"): ["ckpt_path= is missing"],
    ("predict", "recursive=no"): ["recursive=no is text", "type recursive=false"],
    ("predict", "output=/dev/null/out"): ["/dev/null"],
    ("export", "formt=onnx"): ["unknown key formt", "did you mean 'format'"],
    ("export", "ckpt_path=null"): ["ckpt_path= is missing: give a checkpoint of stepseg-train"],
    ("export", "reduction=stepp"): ["reduction=stepp", "did you mean 'step'"],
    ("evaluate", "sweep.exit_treshold=[1]"): ["unknown key", "'sweep.exit_thresholds'"],
    ("benchmark", "resolutoin=512"): ["unknown key resolutoin", "did you mean 'resolution'"],
}
MAINS = {
    "predict": predict.main, "export": export.main, "evaluate": evaluate.main,
    "benchmark": benchmark.main,
}  # fmt: skip


@pytest.mark.parametrize(("module", "override"), OTHERS)
def test_so_do_the_other_commands(module, override, tmp_path, monkeypatch, capfd):
    place = [] if override.startswith("output=") else quiet(tmp_path)
    command = {"evaluate": "stepseg-eval"}.get(module, f"stepseg-{module}")
    monkeypatch.setattr(sys, "argv", [command, *place, override])
    check_refusal(MAINS[module], OTHERS[module, override], monkeypatch, capfd)


@pytest.mark.parametrize("name", ["step", "dtop"])
def test_exits_of_a_checkpoint_without_heads_are_refused(name, tmp_path):
    """Not evaluated as dCTS or dense without a word."""
    typed = [f"reduction={name}"]
    without = ModelConfig.from_dict({"num_classes": 11})
    values = plain(compose_config("eval", typed, tmp_path))["reduction"]
    with pytest.raises(ValueError, match=f"reduction={name} lets .* has no exit heads: choose"):
        checkpoint_reduction(values, without)
    exit_ = {"blocks": [], "heads": [2]}  # a placement to come, from sweep.exit_blocks
    heads = ModelConfig.from_dict({"num_classes": 11, "reduction": {"exit": exit_}})
    checkpoint_reduction(values, heads)
    chosen = compose_config("eval", [*typed, "reduction.exit=null"], tmp_path)
    assert checkpoint_reduction(plain(chosen)["reduction"], without)["exit"] is None


@pytest.mark.parametrize("typed", ["merge.thresholds=[0.5]", "exit.threshold=0.5", "inside.r=9"])
def test_values_of_a_part_that_the_checkpoint_lacks_are_refused(typed, tmp_path):
    cfg = compose_config("predict", [f"reduction.{typed}"], tmp_path)
    with pytest.raises(ValueError, match="changes what the checkpoint's own reduction does not"):
        checkpoint_reduction(plain(cfg)["reduction"], ModelConfig.from_dict({"num_classes": 11}))


def quiet(folder):
    """Overrides that keep Hydra from writing and saying anything of its own."""
    none = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    return [f"hydra.run.dir={folder}", "hydra.output_subdir=null", *none]


def check_refusal(main, parts, monkeypatch, capfd):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as stop:
        main()
    said = capfd.readouterr().err.strip()
    assert stop.value.code == 2, said
    assert said.startswith(f"{sys.argv[0]}: error: ")
    assert "\n" not in said
    for part in parts:
        assert part in said


def test_there_are_enough_of_them():
    assert len(BAD) >= 40
