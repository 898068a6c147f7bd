import json

import pytest
import torch

from stepseg.model import Reduction
from toys import SYSTEMS, toy_images, toy_segmenter

LOOPED = ("dense", "cts", "dcts", "dcts_area", "dtop", "step", "step_budget", "step_all_leave")


@pytest.fixture(scope="module")
def paper_style(script):
    return script("paper_style")


@pytest.mark.parametrize("system", LOOPED)
def test_same_map_as_the_packed_model(paper_style, system):
    model, images, reduction = toy_segmenter(), toy_images(3, 80, 100), SYSTEMS[system]
    with torch.no_grad():
        expected = model(images, reduction=reduction).prediction()
    labels = paper_style.PaperStyle(model).prediction(images, reduction)
    assert labels.shape == expected.shape == (3, 80, 100)
    assert (labels == expected).float().mean() > 0.999  # rounding decides ties
    assert len(expected.unique()) > 1


def test_tokens_that_left_cost_no_block(paper_style):
    model, images = toy_segmenter(), toy_images(2)
    seen = []
    for block in model.backbone.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with torch.no_grad():
        output = model(images, reduction=SYSTEMS["step"])
        seen.clear()
        paper_style.PaperStyle(model).prediction(images, SYSTEMS["step"])
    first, middle, last = output.tokens_per_stage
    assert seen == [*first, *middle, *middle, *(count for count in last if count)]


def test_it_refuses_maps_that_the_publication_does_not_make(paper_style):
    with pytest.raises(ValueError, match="decoder's"):
        paper_style.PaperStyle(toy_segmenter(class_source="own"))


def test_the_command_compares_both_styles(paper_style, tmp_path, capsys):
    out = tmp_path / "figures" / "paper_style.json"
    arguments = "--backbone vit_tiny --policy lcnet_050 --resolution 96 --classes 5 --iterations 1"
    paper_style.main([*arguments.split(), "--warmup", "0", "--out", str(out)])
    figures = json.loads(out.read_text())
    names = [row["name"] for row in figures["rows"]]
    assert names == ["dense", "dcts", "dtop", "dtop, paper style", "step", "step, paper style"]
    assert figures["rows"][0]["speedup"] == figures["rows"][0]["times_ours"] == 1
    assert figures["device"] == "cpu"
    assert "paper style" in capsys.readouterr().out


def test_systems_are_those_of_the_paper(paper_style):
    systems = paper_style.systems((6, 8))
    assert systems["dense"] == Reduction()
    assert systems["step"].exit_blocks == (6, 8)
    assert systems["step"].merge == systems["dcts"].merge
