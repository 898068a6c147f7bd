"""The card of a model: what it says, what it leaves out, and that the hub can read it."""

import json
import re
from dataclasses import replace

import markdown
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from stepseg.build import ModelConfig, build_segmenter
from stepseg.card import files
from stepseg.card.examples import read_series, training_curve
from stepseg.card.facts import command_line, run_facts
from stepseg.card.files import write_shared
from stepseg.card.text import card_text
from stepseg.card.tuned import with_choice
from stepseg.checkpoint import Checkpoint, read_checkpoint
from stepseg.dcts.merge import MergeRule
from stepseg.model_config import ReductionConfig
from stepseg.protocol import Protocol

RESULT = {
    "status": "running",
    "command": "stepseg-train",
    "overrides": [
        "experiment=pond/train", "data.root=/home/ada/data/pond", "data.crop_size=[64,64]",
    ],
    "config": {
        "data": {"root": "/home/ada/data/pond", "batch_size": 4, "crop_size": [64, 64]},
        "trainer": {"max_steps": 400, "precision": "32-true"},
        "optim": {"lr": 0.001, "schedule": "cosine"},
    },
    "versions": {"stepseg": "0.1.0", "torch": "2.15.0"},
    "git_sha": "0123abcd",
    "seed": 7,
    "device": "cuda:0",
    "seconds": 125.0,
    "images": 20,
    "per_class_IoU": [81.23456, None, 4.5],
    "rows": [
        {"name": "dense", "mIoU": 40.0, "gmacs_mean": 6.0, "tokens_per_stage": [24.0],
         "images_per_s": 10.0, "speedup": 1.0},
        {"name": "STEP@[1]", "mIoU": 42.123456, "aAcc": 70.5, "mAcc": float("nan"),
         "gmacs_mean": 3.25, "tokens_per_stage": [12.4, 7.6], "images_per_s": 17.5,
         "speedup": 1.75},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = ModelConfig.from_dict(
        {
            "num_classes": 3,
            "backbone": {"name": "vit_tiny", "depth": 2},
            "policy": {"name": "lcnet_050", "windows": [2, 4]},
            "heads": {"num_layers": 1},
            "reduction": {
                "merge": {"windows": [2, 4], "thresholds": [0.3, 0.5]},
                "exit": {"blocks": [1], "threshold": 0.2},
            },
        }
    )
    torch.manual_seed(0)
    data = {
        "name": "pond",
        "classes": ["water", "duck | drake", "reed"],
        "palette": [[0, 0, 255], [255, 255, 0], [0, 128, 9]],
        "ignore_index": 255,
    }
    state = build_segmenter(config).state_dict()
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    return Checkpoint(path, config, data, state, step=300, protocol=Protocol())


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,val/mIoU\n24,3.5,\n49,2.5,\n49,,30.5\n99,1.5,\n99,,42.0\n")
    return path


def card_of(checkpoint, about=RESULT, **options):
    facts = run_facts(about) if about else {}
    known = replace(checkpoint, about=facts)
    return card_text(known, "pond model", options.pop("pictures", {}), **options)


def test_the_hub_reads_its_head(checkpoint):
    card = ModelCard(card_of(checkpoint, license_="cc-by-4.0"))
    assert card.data.library_name == "stepseg"
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.license == "cc-by-4.0"
    assert card.data.datasets == ["pond"]
    found = {r.metric_name: r.metric_value for r in card.data.eval_results}
    assert found == {"mIoU": 42.1235, "aAcc": 70.5}  # what is not a number is left out
    assert card.data.model_name == "pond model"
    assert card.text.lstrip().startswith("# pond model")


def test_it_says_what_is_known(checkpoint):
    text = card_of(checkpoint, pictures={"example 1": "pictures/example_1.png"})
    assert "**42.12 mIoU** on 20 validation images" in text
    assert "| STEP@[1] | 42.12 | 70.50 | 3.25 | 17.50 | 1.75 | 12, 8 |" in text
    assert "| dense | 40.00 |  | 6.00 | 10.00 | 1.00 | 24 |" in text
    assert "| 0 | water | #0000ff | 81.2 |" in text
    assert "| 1 | duck \\| drake | #ffff00 | never seen |" in text
    assert "Hardly learned (IoU below 10): reed." in text
    assert "vit_tiny, 2 blocks" in text
    assert "2 × 2 above 0.3, 4 × 4 above 0.5" in text
    assert "after block 1, confidence above 0.2; 5 per class stay" in text
    assert "| step of these weights | 300 |" in text
    assert "| minutes | 2.1, evaluation included |" in text
    assert "![example 1](pictures/example_1.png)" in text
    assert "stepseg-train experiment=pond/train data.root=pond 'data.crop_size=[64,64]'" in text
    assert "/home/ada" not in text


@pytest.mark.parametrize(
    ("weights", "licence"),
    [
        ("vit_base_patch16_dinov3.lvd1689m", "dinov3-license"),
        ("eva02_base_patch14_448.mim_in22k_ft_in1k", "mit"),
        ("vit_base_patch16_dinov3.of_tomorrow", None),
        ("<b>no model</b>", None),
    ],
)
def test_it_names_the_licence_of_what_it_began_with(weights, licence, checkpoint):
    config = checkpoint.config
    backbone = replace(config.backbone, pretrained=weights)
    text = card_of(replace(checkpoint, config=replace(config, backbone=backbone)))
    said = f"that of {weights}, whose weights it began with: {licence}."
    assert (said in text) == (licence is not None)
    assert "<b>" not in text


def test_another_reduction_takes_neither_the_promise_nor_the_figures_of_the_one_before(checkpoint):
    certificate = {"alpha": 0.01, "delta": 0.05, "n": 400, "bound": "betting"}
    first = with_choice(checkpoint, checkpoint.config.reduction, {"certificate": certificate})
    first = replace(first, about={**run_facts(RESULT), **first.about})
    assert "changes at most 1 % of all pixels" in card_text(first, "pond model", {})
    bold = replace(checkpoint.config.reduction, merge=MergeRule((2, 4), (0.0, 0.0)))
    text = card_text(with_choice(first, bold, {}, measured=False), "pond model", {})
    assert "% of all pixels" not in text
    assert "**42.12 mIoU**" not in text
    assert "repeats the figures" not in text
    assert "None is of the model's own reduction" in text
    # figures that were taken of it are its own
    again = with_choice(with_choice(first, bold, {}, measured=False), bold, {})
    assert "**42.12 mIoU**" in card_text(again, "pond model", {})


@pytest.mark.parametrize(
    ("merging", "said"),
    [
        ({"merge": {"windows": [2], "top_k": 5}}, "5 windows of 2 × 2 patches, with the best"),
        (
            {"merge": {"windows": [2, 4], "top_k": [5, 1]}},
            "5 windows of 2 × 2 patches and 1 windows of 4 × 4 patches, with the best scores",
        ),
        ({"merge": {"windows": [2], "by": "uniform"}}, "all windows of 2 patches"),
        ({"inside": {"rule": "tome"}}, "inside the blocks by ToMe"),
        ({"input": {"cell": 24}}, "the image shown smaller, 24 pixels a patch"),
        ({}, "none"),
    ],
)
def test_it_says_what_is_merged(checkpoint, merging, said):
    if "merge" in merging:
        merging["merge"].setdefault("thresholds", None)
    config = replace(checkpoint.config, reduction=ReductionConfig.from_dict(merging))
    assert f"| merging | {said}" in card_of(replace(checkpoint, config=config))


def test_it_guesses_nothing(checkpoint):
    text = card_of(checkpoint, about=None)
    for word in ("mIoU**", "## Figures", "## Examples", "seed", "commit", "minutes", "None", "nan"):
        assert word not in text, word
    assert "model-index" not in text
    assert "license:" not in text
    assert "| 2 | reed | #008009 |" in text


def test_figures_of_other_weights_are_not_its_own():
    """Without the step of its checkpoint a result does not say which weights it is about."""
    facts = run_facts({**RESULT, "rows": None, "mIoU": 39.0})
    assert not {"systems", "per_class_IoU", "images"} & set(facts)
    assert facts["seed"] == 7


def test_without_a_comparison_it_shows_the_validation_that_chose_the_weights(checkpoint):
    alone = {
        **RESULT,
        "rows": None,
        "mIoU": 39.0,
        "tokens_per_stage": [9.0],
        "checkpoint_step": 300,
    }
    text = card_of(checkpoint, about=alone)
    assert "**39.00 mIoU** on 20 validation images" in text
    assert "| as trained | 39.00 | 9 |" in text
    assert "Measured by the validation after step 300 of the training." in text
    assert "All rows" not in text
    assert "validation after step" not in card_of(checkpoint)


def test_python_of_the_card_runs(checkpoint, tmp_path):
    write_shared(tmp_path / "model.safetensors", checkpoint, {})
    Image.fromarray(np.zeros((40, 56, 3), np.uint8)).save(tmp_path / "photo.jpg")
    card = (tmp_path / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace("model.safetensors", str(tmp_path / "model.safetensors"))
    names = {}
    exec(code.replace("photo.jpg", str(tmp_path / "photo.jpg")), names)
    assert names["prediction"].labels.shape == (40, 56)


def test_what_is_written(checkpoint, metrics, tmp_path):
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    label = torch.randint(0, 3, (64, 96), dtype=torch.uint8)
    shared = write_shared(
        tmp_path / "model.safetensors",
        checkpoint,
        run_facts(RESULT, hardware="a GPU"),
        examples=[(image, label), (image, None)],
        metrics=metrics,
        name="pond",
    )
    names = {
        "README.md", "model.safetensors", "pictures/curve.png", "pictures/example_1.png",
        "pictures/example_2.png",
    }  # fmt: skip
    assert set(shared.files) == names
    assert shared.problems == []
    text = (tmp_path / "README.md").read_text()
    for file in names - {"README.md"}:
        assert f"({file})" in text or file == "model.safetensors"
        assert shared.files[file] == tmp_path / file
    with Image.open(tmp_path / "pictures" / "example_1.png") as picture:
        assert picture.width <= 1600
    about = read_checkpoint(tmp_path / "model.safetensors").about
    assert about["systems"][1]["mIoU"] == 42.1235
    assert about["hardware"] == "a GPU"
    again = tmp_path / "again"
    write_shared(again / "w.safetensors", read_checkpoint(tmp_path / "model.safetensors"), {})
    assert "| STEP@[1] | 42.12 |" in (again / "README.md").read_text()  # from the file alone


def test_a_picture_that_fails_is_left_out(checkpoint, metrics, tmp_path, monkeypatch, capsys):
    def fail(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(files, "example_picture", fail)
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    shared = write_shared(
        tmp_path / "model.safetensors", checkpoint, {}, examples=[(image, None)], metrics=metrics
    )
    assert shared.problems == ["pictures/example_1.png: MemoryError: no room"]
    text = (tmp_path / "README.md").read_text()
    assert "curve.png" in text
    assert "example_1" not in text
    read_checkpoint(tmp_path / "model.safetensors").build()


def test_the_curve(metrics, tmp_path):
    assert read_series(metrics, "train/loss") == [(24, 3.5), (49, 2.5), (99, 1.5)]
    assert read_series(metrics, "val/mIoU") == [(49, 30.5), (99, 42.0)]
    picture = training_curve(metrics)
    assert picture.size == (1080, 360)
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 10
    metrics.write_text("step,lr\n1,0.5\n")
    assert training_curve(metrics) is None
    assert training_curve(tmp_path / "nowhere.csv") is None


def test_commands_without_private_paths():
    def shown(*overrides):
        return command_line({"command": "stepseg-train", "overrides": overrides})

    assert shown("data.root=/a/b/c", "seed=1") == "stepseg-train data.root=c seed=1"
    assert shown("x=[/a/b,/c/d]") == "stepseg-train 'x=[b,d]'"
    assert shown("data.root=relative/path") == "stepseg-train data.root=relative/path"
    assert shown("backbone.checkpoint='/a/vit b.pth'").count("/a/") == 0
    assert command_line({}) is None


def test_facts_are_plain_and_small():
    facts = run_facts({**RESULT, "rows": RESULT["rows"] * 20})
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert yaml.safe_load(yaml.safe_dump(facts)) == facts
    assert len(json.dumps(facts)) < 10_000


def test_names_are_text_in_a_card(checkpoint):
    """Rendered, no word of a stranger's checkpoint is an element, a link or an attribute."""
    hostile = "<zz9 onzz9=1>\n\n# zz9\n```\n<script>zz9</script> | ![a](zz9:b) `zz9` **zz9**"

    def changed(value):
        if isinstance(value, dict):
            return {key: changed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [changed(inner) for inner in value]
        return hostile if isinstance(value, str) else value

    about = {**changed(run_facts(RESULT)), "command": hostile, "hardware": hostile}
    classes = [f"{hostile} {index}" for index in range(3)]
    data = {**checkpoint.data, "classes": classes, "name": hostile}
    text = card_text(replace(checkpoint, data=data, about=about), hostile, {}, source=hostile)
    html = markdown.markdown(text.split("\n---\n", 1)[1], extensions=["tables", "fenced_code"])
    assert html.count("zz9") > 20
    assert not re.findall(r"<(?:zz9|script|img|strong>zz9|h1[^>]*>\s*zz9)|(?:src|href)=\"zz9", html)
