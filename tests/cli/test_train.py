"""`stepseg-train` and `stepseg-eval` from configuration to result, on a data set of seconds."""

import csv
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from commands import SMALL, compose_config, run_command, write_camvid
from stepseg.checkpoint import read_checkpoint, write_inference_checkpoint
from stepseg.cli import share
from stepseg.cli.evaluate.job import evaluate
from stepseg.cli.train import job
from stepseg.cli.train.job import train
from stepseg.dcts.targets import HomogeneityRule
from stepseg.lit import segmentation_module
from stepseg.lit.resume import validated
from stepseg.protocol import Protocol
from timm_families import drawn
from training import TINY, load, rows_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The output folder of one small training."""
    output = tmp_path_factory.mktemp("trained")
    overrides = ["data=camvid", f"data.root={data}", *SMALL, "card=true"]
    overrides.append("homogeneity.ignore_breaks_homogeneity=false")
    train(compose_config("train", overrides, output))
    return output


def result_of(output):
    return json.loads((output / "result.json").read_text())


def test_training_writes_what_was_promised(trained):
    result = result_of(trained)
    assert result["status"] == "completed"
    assert [row["name"] for row in result["rows"]] == ["dense", "dCTS", "STEP@[2,4]"]
    for key in ("mIoU", "aAcc", "mAcc", "fwIoU", "boundary_IoU", "gmacs_mean", "gmacs_std"):
        assert 0 <= result[key] <= 100
    assert result["images"] == 5
    assert len(result["per_class_IoU"]) == 11
    assert result["tokens_per_stage"][0] == result["tokens_mean"] <= 24
    dense = result["rows"][0]
    assert dense["tokens_per_stage"] == [24.0]  # 64 x 96 px are 4 x 6 patches
    assert dense["superpatches"]["1"] == 24
    covered = sum(int(s) ** 2 * n for s, n in result["superpatches"].items())
    assert covered == pytest.approx(24)
    assert sum(result["gmacs_by_part"].values()) == pytest.approx(result["gmacs_mean"])
    for row in (result, *result["rows"]):
        windows = {side: row["policy_calibration"][side]["bins"] for side in ("2", "4")}
        counts = {side: sum(b["count"] for b in bins) for side, bins in windows.items()}
        assert counts == {"2": 5 * 6, "4": 5}
    assert (trained / "checkpoints" / "best.ckpt").is_file()
    assert (trained / "checkpoints" / "last.ckpt").is_file()


def test_a_card_stands_beside_the_best_checkpoint(trained, data):
    folder, result = trained / "checkpoints", result_of(trained)
    assert result["card"] == str(folder / "README.md")
    assert "card_error" not in result
    text = (folder / "README.md").read_text()
    assert f"**{result['mIoU']:.2f} mIoU** on 5 validation images" in text
    assert "stepseg-train data=camvid data.root=camvid" in text
    assert str(data.parent) not in text
    pictures = ["curve.png", "example_1.png", "example_2.png"]
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == pictures
    shared = read_checkpoint(folder / "model.safetensors")
    best = read_checkpoint(folder / "best.ckpt")
    assert shared.step == best.step
    assert all(torch.equal(shared.state[key], value) for key, value in best.state.items())
    assert shared.about["systems"][-1]["mIoU"] == pytest.approx(result["mIoU"], abs=1e-3)


def test_a_card_that_fails_ends_nothing(data, tmp_path, monkeypatch, capsys):
    def fail(*args, **options):
        raise OSError("disk full")

    monkeypatch.setattr(share, "write_shared", fail)
    overrides = ["data=camvid", f"data.root={data}", *SMALL, "card=true", "compare=false"]
    train(compose_config("train", overrides, tmp_path))
    result = result_of(tmp_path)
    assert (result["status"], result["card_error"]) == ("completed", "OSError: disk full")
    assert "no card was written: disk full" in capsys.readouterr().err


def test_metrics_are_logged(trained):
    with open(trained / "csv" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    for name in (
        "train/loss", "train/decoder/focal", "train/exit_head_2/dice", "train/policy",
        "train/tokens_stage_1", "train/gmacs", "train/superpatches_2x2",
        "val/mIoU", "val/gmacs", "val/tokens_stage_3", "val/decoder/classes", "val/policy",
        "val/loss_images",
        "val/ece_2x2", "val/ece_4x4",
    ):  # fmt: skip
        values = [float(row[name]) for row in rows if row.get(name)]
        assert values, f"{name} was never logged"
        assert all(value == value for value in values), f"{name} is NaN"


def test_checkpoint_holds_plain_values(trained):
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["stepseg"]["model"]["backbone"]["name"] == "vit_tiny"
    assert content["stepseg"]["data"]["classes"][0] == "sky"


def test_evaluation_repeats_the_training_s_figures(trained, data, tmp_path):
    overrides = [f"ckpt_path={trained}", "data=camvid", f"data.root={data}"]
    evaluate(compose_config("eval", [*overrides, "data.num_workers=0"], tmp_path))
    theirs, ours = result_of(trained), result_of(tmp_path)
    assert ours["status"] == "completed"
    for key in ("mIoU", "aAcc", "gmacs_mean"):
        assert ours[key] == pytest.approx(theirs[key], abs=1e-6)
    assert ours["tokens_per_stage"] == theirs["tokens_per_stage"]
    for side, calibration in theirs["policy_calibration"].items():
        assert ours["policy_calibration"][side]["ece"] == pytest.approx(calibration["ece"])
    rule = read_checkpoint(trained / "checkpoints" / "best.ckpt").rule
    assert rule == HomogeneityRule(ignore_breaks_homogeneity=False)


def test_fine_tuning_starts_from_the_folder_of_a_run(trained, data, tmp_path):
    overrides = ["data=camvid", f"data.root={data}", *SMALL, f"init_from={trained}"]
    overrides += ["reduction.exit.blocks=[2]", "trainer.max_steps=1", "compare=false"]
    train(compose_config("train", overrides, tmp_path / "tuned"))
    told = result_of(tmp_path / "tuned")["init_from"]
    assert told.startswith(f"init_from: {trained / 'checkpoints' / 'best.ckpt'}: ")
    assert told.endswith("not used: the head after block 4")
    wrong = ["backbone=vit_small", "optim.warmup_steps=0", "trainer.max_steps=1"]
    with pytest.raises(ValueError, match="is of backbone=vit_tiny, policy=lcnet_050, of which"):
        train(compose_config("train", [*overrides, *wrong], tmp_path / "wrong"))


def test_a_policy_that_is_named_stays_beside_other_weights(trained, data, tmp_path):
    """The weights to start from bring one, too."""
    other = read_checkpoint(trained / "checkpoints" / "best.ckpt").build()
    for weight in other.policy.parameters():
        torch.nn.init.constant_(weight, 0.25)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "policy.ckpt")
    overrides = ["data=camvid", f"data.root={data}", *SMALL, f"init_from={trained}"]
    overrides += ["policy.training=frozen", f"policy.checkpoint={tmp_path / 'policy.ckpt'}"]
    overrides += ["trainer.max_steps=1", "compare=false", "card=false", "optim.warmup_steps=0"]
    with pytest.raises(ValueError, match="both bring a policy: drop one"):
        train(compose_config("train", [*overrides, "task=policy"], tmp_path / "alone"))
    train(compose_config("train", overrides, tmp_path / "tuned"))
    told = result_of(tmp_path / "tuned")["init_from"]
    assert "new: " not in told
    after = read_checkpoint(tmp_path / "tuned" / "checkpoints" / "best.ckpt").build()
    same = zip(after.policy.parameters(), other.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_a_frozen_encoder_stays_as_it_came_also_on_resuming(trained, data, tmp_path, capsys):
    """And sees images as it did before: its normalisation is not that of the configuration."""
    source = tmp_path / "source.ckpt"
    content = load(trained, "best.ckpt")
    content["stepseg"]["model"]["backbone"]["mean"] = [0.1, 0.2, 0.3]
    torch.save(content, source)
    overrides = ["data=camvid", f"data.root={data}", *SMALL, f"init_from={source}"]
    overrides += ["backbone.frozen=true", "compare=false", "callbacks.pictures=null"]
    overrides += ["trainer.val_check_interval=1", "optim.layer_decay=0.5", "optim.warmup_steps=0"]
    start, end = tmp_path / "start", tmp_path / "end"
    train(compose_config("train", [*overrides, "trainer.max_steps=1"], start))
    overrides += ["trainer.max_steps=2", f"ckpt_path={start}", "resume.on_change=warn"]
    train(compose_config("train", overrides, end))
    told = capsys.readouterr().err
    assert "(policy 0.27, backbone 2.85 frozen, decoder" in told
    before = read_checkpoint(trained / "checkpoints" / "best.ckpt").state
    after = load(end)
    assert after["global_step"] == 2
    same = {k: torch.equal(v, after["state_dict"][f"model.{k}"]) for k, v in before.items()}
    assert all(same[key] for key in same if key.startswith("backbone."))
    assert not any(same[key] for key in same if key.startswith("decoder."))
    groups = after["optimizer_states"][0]["param_groups"]
    assert not any(group["name"].startswith("backbone") for group in groups)
    for folder in (start, end):
        normalised = read_checkpoint(folder / "checkpoints" / "last.ckpt").config.backbone
        assert normalised.mean == pytest.approx((0.1, 0.2, 0.3))


def test_systems_are_timed_in_the_precision_of_their_figures(data, tmp_path, monkeypatch, capfd):
    overrides = ["data=camvid", f"data.root={data}", *SMALL, "trainer.precision=bf16-mixed"]
    overrides += ["trainer.max_steps=1", "optim.warmup_steps=0", "card=false", "compare=true"]
    timed, time_systems = [], job.time_systems

    def note(model, reductions, images):
        timed.append(torch.is_autocast_enabled("cpu"))
        return time_systems(model, reductions, images, iterations=1)

    monkeypatch.setattr(job, "time_systems", note)
    train(compose_config("train", overrides, tmp_path))
    assert timed == [True]
    assert "cpu, bf16-mixed, batch 1" in capfd.readouterr().out


def test_an_encoder_of_its_own_under_the_heads_of_another(trained, data, tmp_path):
    """`init_without=[backbone]` takes over the rest, and the encoder may come from elsewhere."""
    overrides = ["data=camvid", f"data.root={data}", *SMALL, f"init_from={trained}"]
    overrides += ["init_without=[backbone]", "trainer.max_steps=1", "compare=false", "seed=9"]
    overrides += ["card=false", "optim.warmup_steps=0", "optim.lr=1e-30", "optim.policy_lr=1e-30"]
    train(compose_config("train", overrides, tmp_path))
    told = result_of(tmp_path)["init_from"]
    assert "new: backbone" in told
    before = read_checkpoint(trained / "checkpoints" / "best.ckpt").state
    after = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt").state
    key = "patch_embed.proj.weight"
    assert not torch.allclose(before[f"backbone.{key}"], after[f"backbone.{key}"])
    key = "decoder.query_Cd"
    assert torch.allclose(before[key], after[key])


def test_evaluation_follows_the_protocol_of_the_checkpoint(trained, data, tmp_path, capsys):
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    slide = Protocol(mode="slide", crop=(48, 64))
    content["stepseg"]["protocol"] = slide.as_dict()
    torch.save(content, tmp_path / "slide.ckpt")
    common = [f"ckpt_path={tmp_path}/slide.ckpt", "data=camvid", f"data.root={data}"]
    typed = [*common, "data.crop_size=[32,32]"]
    evaluate(compose_config("eval", typed, tmp_path / "same"))
    assert result_of(tmp_path / "same")["protocol"] == slide.as_dict()
    told = capsys.readouterr().err
    assert "images are shown" not in told.replace("how images are shown", "")
    assert "data.crop_size is of trainings" in told
    evaluate(compose_config("eval", [*common, "data.evaluation.mode=whole"], tmp_path / "other"))
    assert result_of(tmp_path / "other")["protocol"]["mode"] == "whole"
    assert "the checkpoint says mode=slide" in capsys.readouterr().err


def test_without_a_comparison_the_figures_are_those_of_the_checkpoint(data, tmp_path, monkeypatch):
    """The first of two validations counts as the best; its checkpoint evaluates to its figures."""
    scores = iter([2.0, 1.0])
    logged = segmentation_module.logged_figures
    monkeypatch.setattr(
        segmentation_module, "logged_figures",
        lambda split, figures: logged(split, figures) | {"val/mIoU": next(scores)},
    )  # fmt: skip
    common = ["data=camvid", f"data.root={data}"]
    overrides = [*common, *SMALL, "compare=false", "card=true", "optim.lr=0.003"]
    objective = train(compose_config("train", overrides, tmp_path / "train"))
    monkeypatch.undo()
    result, best = result_of(tmp_path / "train"), tmp_path / "train" / "checkpoints" / "best.ckpt"
    assert result["checkpoint"] == str(best)
    assert (result["steps"], result["checkpoint_step"]) == (4, read_checkpoint(best).step) == (4, 2)
    evaluate(
        compose_config("eval", [*common, f"ckpt_path={best}", "data.num_workers=0"], tmp_path / "a")
    )
    again = result_of(tmp_path / "a")
    assert objective == result["mIoU"]
    for key in ("mIoU", "aAcc", "gmacs_mean", "tokens_per_stage", "per_class_IoU"):
        assert result[key] == pytest.approx(again[key], abs=1e-4), key
    about = read_checkpoint(best.with_name("model.safetensors")).about
    assert about["systems"][0]["validated_at"] == 2
    assert about["systems"][0]["mIoU"] == pytest.approx(result["mIoU"], abs=1e-3)
    last = torch.load(best.with_name("last.ckpt"), weights_only=True)["stepseg_run"]["results"]
    assert last[-1]["aAcc"] != result["aAcc"]  # the last validation would have told


def test_sweep_has_a_row_per_combination(trained, data, tmp_path):
    overrides = [
        f"ckpt_path={trained}", "data=camvid", f"data.root={data}",
        "data.num_workers=0", "sweep.merge_thresholds=[[0.5,0.5],[1,1]]",
        "sweep.exit_blocks=[[2],[2,4]]",
    ]  # fmt: skip
    evaluate(compose_config("eval", overrides, tmp_path))
    rows = result_of(tmp_path)["rows"]
    assert len(rows) == 4
    assert rows[2]["reduction"]["merge"]["thresholds"] == [1, 1]
    assert rows[2]["tokens_per_stage"][0] == 24  # a threshold of 1 merges nothing
    assert [len(row["tokens_per_stage"]) for row in rows] == [2, 3, 2, 3]


@pytest.mark.parametrize(
    "protocol",
    [
        ["data.evaluation.mode=whole"],
        ["data.evaluation.mode=slide", "+data.evaluation.crop=[48,64]",
         "+data.evaluation.stride=[32,40]"],
    ],
)  # fmt: skip
def test_saved_predictions_recount_to_the_reported_figure(protocol, trained, data, tmp_path):
    overrides = [
        f"ckpt_path={trained}", "data=camvid", f"data.root={data}",
        "data.num_workers=0", "save_predictions=true", *protocol,
    ]  # fmt: skip
    evaluate(compose_config("eval", overrides, tmp_path))
    matrix = np.zeros((11, 11))
    files = sorted((tmp_path / "predictions").glob("*.png"))
    assert len(files) == 5
    for file in files:
        label = np.asarray(Image.open(data / "annotations" / "val" / file.name)).astype(int)
        prediction = np.asarray(Image.open(file)).astype(int)
        counted = label != 11  # void
        np.add.at(matrix, (label[counted], prediction[counted]), 1)
    hit, total = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    recount = 100 * np.mean(hit[total > 0] / total[total > 0])
    result = result_of(tmp_path)
    assert result["mIoU"] == pytest.approx(recount, rel=1e-9)
    assert result["protocol"]["mode"] == protocol[0].split("=")[1]
    windows = {"whole": 24, "slide": 2 * 2 * 3 * 4}[result["protocol"]["mode"]]
    covered = sum(int(side) ** 2 * number for side, number in result["superpatches"].items())
    assert covered == pytest.approx(windows)


def test_other_systems_on_the_same_weights(trained, data, tmp_path):
    common = [f"ckpt_path={trained}", "data=camvid", f"data.root={data}"]
    common.append("data.num_workers=0")
    evaluate(compose_config("eval", [*common, "reduction=none"], tmp_path / "none"))
    dense = next(row for row in result_of(trained)["rows"] if row["name"] == "dense")
    assert result_of(tmp_path / "none")["mIoU"] == pytest.approx(dense["mIoU"], abs=1e-6)
    cts = ["reduction=cts", "reduction.merge.top_k=3", "reduction.merge.top_k_cells=null"]
    evaluate(compose_config("eval", [*common, *cts], tmp_path / "cts"))
    assert result_of(tmp_path / "cts")["tokens_per_stage"] == [24 - 3 * 3]
    oracle = ["reduction=dcts", "reduction.merge.windows=[2]", "reduction.merge.thresholds=[0.5]"]
    evaluate(compose_config("eval", [*common, *oracle, "policy=oracle"], tmp_path / "oracle"))
    # 32-px blocks of one class, and void rows, which break none by the rule of the training
    assert result_of(tmp_path / "oracle")["tokens_per_stage"] == [6]


def test_wrong_checkpoints_are_refused(trained, data, tmp_path):
    best = trained / "checkpoints" / "best.ckpt"

    def run(*overrides):
        evaluate(compose_config("eval", [*overrides], tmp_path))

    with pytest.raises(ValueError, match="ckpt_path= is missing"):
        run("data=camvid", f"data.root={data}")
    with pytest.raises(ValueError, match=r"predicts 11 classes \(camvid\), data 'synthetic' has 8"):
        run(f"ckpt_path={best}", "data=synthetic")
    with pytest.raises(ValueError, match="no exit head after block"):
        run(f"ckpt_path={best}", "data=camvid", f"data.root={data}", "sweep.exit_blocks=[[3]]")
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(ValueError, match="is not a stepseg checkpoint"):
        run(f"ckpt_path={foreign}", "data=camvid", f"data.root={data}")
    foreign.write_bytes(best.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read safely"):
        run(f"ckpt_path={foreign}", "data=camvid", f"data.root={data}")
    content = torch.load(best, weights_only=True)
    content["stepseg"]["model"]["backbone"]["name"] = "vit_small"
    torch.save(content, foreign)
    with pytest.raises(ValueError, match=r"does not fit this model: .*\(192,\), expected"):
        run(f"ckpt_path={foreign}", "data=camvid", f"data.root={data}")


def test_shared_weights_evaluate_alike_and_cannot_be_resumed(trained, data, tmp_path):
    shared = tmp_path / "model.safetensors"
    write_inference_checkpoint(shared, read_checkpoint(trained / "checkpoints" / "best.ckpt"))
    common = ["data=camvid", f"data.root={data}"]
    overrides = [f"ckpt_path={shared}", *common, "data.num_workers=0"]
    evaluate(compose_config("eval", overrides, tmp_path / "eval"))
    assert result_of(tmp_path / "eval")["mIoU"] == result_of(trained)["mIoU"]
    resumed = compose_config("train", [*common, *SMALL, f"ckpt_path={shared}"], tmp_path / "resume")
    with pytest.raises(ValueError, match=r"holds weights alone.*resume from last\.ckpt"):
        train(resumed)


def test_policy_alone_then_frozen(data, tmp_path):
    common = ["data=camvid", f"data.root={data}", *SMALL]
    policy = [*common, "task=policy"]
    train(compose_config("train", policy, tmp_path / "policy"))
    result = result_of(tmp_path / "policy")
    assert result["status"] == "completed"
    assert 0 <= result["mAP"] <= 1
    step, figures = validated(result["checkpoint"])
    assert (result["checkpoint_step"], result["mAP"]) == (step, figures["mAP"])
    assert 0 <= result["policy_calibration"]["4"]["ece"] <= 1
    checkpoint = tmp_path / "policy" / "checkpoints" / "best.ckpt"
    frozen = ["policy.training=frozen", f"policy.checkpoint={checkpoint}"]
    train(compose_config("train", [*common, *frozen], tmp_path / "frozen"))
    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert before["policy.classifier.2.correction"] != 0
    after = torch.load(tmp_path / "frozen" / "checkpoints" / "last.ckpt", weights_only=True)
    for key, value in before.items():
        if key.startswith("policy."):
            torch.testing.assert_close(after["state_dict"][f"model.{key}"], value, rtol=0, atol=0)


def test_half_precision_checkpointing_and_accumulation(data, tmp_path):
    overrides = [
        "data=camvid", f"data.root={data}", *SMALL, "trainer.precision=bf16-mixed",
        "backbone.checkpoint_blocks=true", "compare=false",
        "trainer.accumulate_grad_batches=2", "trainer.max_steps=2",
    ]  # fmt: skip
    train(compose_config("train", overrides, tmp_path))
    result = result_of(tmp_path)
    assert result["status"] == "completed"
    assert result["dtype"] == "bf16-mixed"


@pytest.mark.slow
def test_compiled_inner_modules(data, tmp_path):
    overrides = ["data=camvid", f"data.root={data}", *SMALL, "compile=true", "compare=false"]
    train(compose_config("train", overrides, tmp_path))
    assert result_of(tmp_path)["status"] == "completed"


@pytest.mark.parametrize(
    "encoder",
    ["plain", pytest.param("dinov3", marks=pytest.mark.slow)],  # two processes each
)
def test_two_processes_equal_one(encoder, data, tmp_path):
    """Same mIoU, and with the doubled batch the same losses: dropout off, the policy learns."""
    common = [
        "data=camvid", f"data.root={data}", *SMALL, "heads.dropout=0", "policy.training=joint",
        "trainer.log_every_n_steps=1", "compare=false", "seed=3",
    ]  # fmt: skip
    if encoder == "dinov3":  # registers, rotary positions, LayerScale
        weights = drawn(timm.create_model("vit_small_patch16_dinov3", depth=2, num_classes=0))
        torch.save(weights.state_dict(), tmp_path / "weights.pth")
        common += [
            "backbone=dinov3_small", "backbone.depth=2", "backbone.drop_path=0",
            f"backbone.checkpoint={tmp_path / 'weights.pth'}", "reduction.exit.blocks=[1]",
        ]  # fmt: skip
    train(compose_config("train", [*common, "data.batch_size=4"], tmp_path / "one"))
    one = result_of(tmp_path / "one")
    two = run_command("train", *common, "trainer=ddp_cpu", output=tmp_path / "two")
    curves = []
    for folder in ("one", "two"):
        with open(tmp_path / folder / "csv" / "metrics.csv") as file:
            rows = [row for row in csv.DictReader(file) if row["train/loss"]]
        curves.append([float(row["train/loss"]) for row in rows])
    assert len(curves[0]) == 4
    assert curves[1] == pytest.approx(curves[0], rel=2e-5)
    assert len(set(curves[0])) == 4
    assert two["images"] == one["images"] == 5  # five images over two processes, none twice
    assert two["mIoU"] == pytest.approx(one["mIoU"], abs=1e-6)
    assert two["tokens_per_stage"] == one["tokens_per_stage"]
    states = [load(tmp_path / folder)["state_dict"] for folder in ("one", "two")]
    corrections = [[v for k, v in s.items() if k.endswith("correction")] for s in states]
    assert all(correction != 0 for correction in corrections[0])
    torch.testing.assert_close(*corrections, rtol=1e-3, atol=1e-4)


@pytest.mark.slow  # two processes, beside those of the test above
def test_two_processes_whose_images_differ_take_part_in_the_same_collectives(tmp_path):
    """Only images of one window have a loss; of five such images one rank has one, one has none."""
    root = write_camvid(tmp_path / "data")
    for folder in ("images", "annotations"):
        path = root / folder / "val" / "002.png"
        Image.open(path).crop((0, 0, 64, 64)).save(path)
    result = run_command(
        "train", "data=camvid", f"data.root={root}", *TINY, "trainer=ddp_cpu",
        "data.evaluation.mode=slide", "+data.evaluation.crop=[64,64]", "ranks.timeout_seconds=100",
        output=tmp_path / "run",
    )  # fmt: skip
    assert result["images"] == 5
    rows = [row for row in rows_of(tmp_path / "run") if "val/mIoU" in row]
    assert len(rows) == 2
    for row in rows:
        assert float(row["val/loss_images"]) == 1
        assert float(row["val/decoder/dice"]) > 0
