"""`stepseg-accelerate`: from a folder of transformers and images to a checkpoint of ours."""

import json

import pytest
import torch
from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor

from commands import compose_config, write_camvid
from stepseg import Segmenter
from stepseg.accelerate.judge import smaller_of_cost
from stepseg.card.text import card_text
from stepseg.checkpoint import read_checkpoint
from stepseg.cli.accelerate.job import accelerate
from stepseg.heads.exit import ConfidenceExit
from stepseg.model import Reduction

SMALL = [
    "policy=lcnet_050", "policy.windows=[2,4]", "thresholds=[0.5,0.5]", "learn.steps=3",
    "learn.batch_size=2", "learn.crop=64", "device=cpu", "held_out=0.34", "lose=50",
]  # fmt: skip


def run(folder, model, photos, *typed):
    given = [f"model={model}", f"images={photos}", *SMALL, *typed]
    accelerate(compose_config("accelerate", given, folder))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    config = EomtConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=64, num_queries=5,
        num_blocks=1, num_upscale_blocks=1, num_labels=4,
    )  # fmt: skip
    model = EomtForUniversalSegmentation(config)
    model.attn_mask_probs.zero_()
    model.save_pretrained(path)
    size = {"shortest_edge": 64, "longest_edge": None}
    EomtImageProcessor(do_split_image=True, size=size).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("photos"), train=8, val=1) / "images" / "train"


@pytest.fixture(scope="module")
def output(model, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    run(folder, model, photos)
    return folder


def test_a_checkpoint_for_every_command(output, model, photos):
    result = json.loads((output / "result.json").read_text())
    names = [row["name"] for row in result["rows"]]
    assert names == ["dense", "accelerated", names[2], "uniform"]
    assert names[2].startswith("smaller input, ")
    dense, fast, smaller, _ = result["rows"]
    assert dense["agreement"] == 100
    assert 0 <= fast["agreement"] <= 100
    assert smaller["gmacs_mean"] >= min(fast["gmacs_mean"], dense["gmacs_mean"])
    checkpoint, before = read_checkpoint(output), read_checkpoint(model)
    assert checkpoint.config.to_dict()["reduction"]["merge"] == result["reduction"]["merge"]
    assert checkpoint.about["systems"] == result["rows"]
    card = card_text(checkpoint, "fast", {})
    assert f"the weights are those of {model.name} (EomtForUniversalSegmentation of tr" in card
    assert "| system | same pixels | GMACs | tokens by stage |" in card
    assert "learned from the model's own label maps of 3 images" in card
    assert "## Training" not in card
    assert checkpoint.about["accelerated"]["source"] == model.name
    assert (checkpoint.protocol, checkpoint.data) == (before.protocol, before.data)
    kept = {k: v for k, v in checkpoint.state.items() if not k.startswith("policy.")}
    assert kept.keys() == before.state.keys()
    assert all(torch.equal(kept[key], value) for key, value in before.state.items())
    segmenter = Segmenter.from_pretrained(output)
    assert segmenter.reduction.kind == "dCTS"
    prediction = segmenter.predict(next(photos.glob("*.png")))
    assert prediction.gmacs > 0


def test_it_goes_on_where_the_dense_runs_were(output, model, photos):
    before = {p: p.stat().st_mtime_ns for p in (output / "dense" / "labels").glob("*.png")}
    assert len(before) == 8
    run(output, model, photos)
    assert json.loads((output / "result.json").read_text())["finished_before"] == 8
    assert before == {p: p.stat().st_mtime_ns for p in before}
    # a checkpoint of this project, with a policy of its own, gets another one
    run(output / "again", output, photos, "learn.steps=0")
    before, after = read_checkpoint(output).state, read_checkpoint(output / "again").state
    changed = {key.partition(".")[0] for key in after if not torch.equal(before[key], after[key])}
    assert changed == {"policy"}


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        (["model=null"], "model= is missing"),
        (["images=null"], "data= is missing"),
        (["images={photos}/000.png"], r"data='.*000.png' has 1 image: 4 are needed"),
        (["policy=oracle"], "a network that learns"),
        (["thresholds=[0.5]"], "one for each of policy.windows"),
        (["thresholds=null"], "thresholds=None: one for each of policy.windows"),
        (["thresholds=0.5"], "thresholds=0.5: one for each of policy.windows"),
        (["thresholds=[60,80]"], r"probabilities in \[0, 1\], got 60"),
        (["policy.windows=[3,4]"], "window sizes must be .* each divide the next"),
        (["policy.calibration_images=8"], "=8 is of trainings: here learn.calibration_images= c"),
        (["batch_size=0"], "batch_size=0: a number of images, at least 1"),
        (["batch_size=-1"], "batch_size=-1: a number of images, at least 1"),
        (["held_out=half"], "held_out is 'half', expected float"),
        (["held_out=1"], "held_out=1: a share of the images between 0 and 1"),
        (["choose_images=2.5"], "choose_images is 2.5, expected int | None"),
        (["compare_images=many"], "compare_images is 'many', expected int | None"),
        (["compare_images=0"], "compare_images=0: at least 1 image"),
        (["lose=0"], "lose=0: a number above 0"),
        (["gmacs=1"], "exactly one target of .*: lose=50, gmacs=1"),
        (["lose=null", "certify=0.05"], r"2 images certify .*; 2 are left of 8"),
        (["exits=1"], r"exits=1: blocks after which tokens may leave, such as"),
        (["learn.crop=8"], "learn.crop is at least 32"),
    ],
)
def test_requests_that_cannot_work(typed, why, model, photos, tmp_path):
    with pytest.raises(ValueError, match=why):
        run(tmp_path, model, photos, *(word.format(photos=photos) for word in typed))
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("policy.name=no_such_net", "timm has no model 'no_such_net'"),
        ("policy.windows=[3,6]", "its cells do not tile windows of 3 patches"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_before_the_dense_runs(
    typed, why, model, photos, tmp_path
):
    with pytest.raises(ValueError, match=why):
        run(tmp_path, model, photos, typed)
    assert not (tmp_path / "dense").exists()


@pytest.mark.parametrize("target", ["gmacs", "certify"])
def test_other_targets(target, output, model, photos):
    """Both choose among reductions by agreement with label maps that are there."""
    folder = output / target
    typed = ["lose=null", "certify=0.9", "bound=mean", "choose_images=4"]
    if target == "gmacs":
        dense, fast, *_ = json.loads((output / "result.json").read_text())["rows"]
        typed = ["lose=null", f"gmacs={(dense['gmacs_mean'] + fast['gmacs_mean']) / 2:.5f}"]
    run(folder, model, photos, "learn.steps=0", *typed)
    result, checkpoint = json.loads((folder / "result.json").read_text()), read_checkpoint(folder)
    assert checkpoint.config.to_dict()["reduction"]["merge"] == result["reduction"]["merge"]
    if target == "gmacs":
        assert [point["chosen"] for point in result["tried"]].count(True) == 1
    else:
        said = result["certificate"]
        assert (said["n"], said["certified"]) == (4, len(result["sequence"]))
        assert checkpoint.about["tuned"] == {"certificate": said}
        assert result["sequence"][said["chosen"]]["changed_mean"] <= 0.9


def test_exits_are_learned_and_left_out_where_they_do_not_pay(
    output, model, photos, monkeypatch, tmp_path
):
    monkeypatch.setattr("stepseg.accelerate.exits.STEPS", 30)
    folder = output / "exits"
    run(folder, model, photos, "learn.steps=0", "exits=[1]", "lose=99")
    result, checkpoint = json.loads((folder / "result.json").read_text()), read_checkpoint(folder)
    assert checkpoint.config.heads.exit == "linear"
    assert checkpoint.config.reduction.exit.head_blocks == (1,)
    assert {"no exits", "exits after 1"} <= {point["family"] for point in result["tried"]}
    leaving = Reduction(exit=ConfidenceExit(0.0, 0), exit_blocks=(1,))
    segmenter = Segmenter.from_pretrained(folder, reduction=leaving)
    assert segmenter.predict(next(photos.glob("*.png"))).tokens[-1] == 0
    with pytest.raises(
        ValueError, match=r"exits=\[1\]: the model has exit heads after blocks \[1\]"
    ):
        run(tmp_path, folder, photos, "exits=[1]")
    with pytest.raises(ValueError, match=r"exit block 2 is outside 1\.\.1"):
        run(tmp_path / "late", model, photos, "exits=[2]")


def test_a_smaller_input_costs_no_less(output):
    segmenter = Segmenter.from_pretrained(output)
    dense = smaller_of_cost(segmenter, 1e9, [(64, 96)])
    assert dense.cell == 16
    assert smaller_of_cost(segmenter, 0.0, [(64, 96)]).cell == 63
