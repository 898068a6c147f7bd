"""`stepseg-predict explorer=true`, and the overrides that its page offers."""

import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from browser import chromium, open_page
from commands import compose_config, write_camvid
from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint import describe
from stepseg.cli.config import checkpoint_reduction, plain
from stepseg.cli.predict.job import predict
from stepseg.data.specs import get_spec
from stepseg.model_config import ReductionConfig
from stepseg.protocol import Protocol
from toys import sharpen

MERGE = {"windows": [2, 4], "thresholds": [0.5, 0.5], "edge_weight": 0.5}
EXIT = {"blocks": [1], "heads": [1, 2], "threshold": 0.5, "keep_per_class": 1}


def write_checkpoint(path, reduction, protocol=None):
    torch.manual_seed(0)
    config = ModelConfig.from_dict(
        {
            "num_classes": 11,
            "backbone": {"name": "vit_tiny", "depth": 3},
            "policy": {"name": "lcnet_050", "windows": [2, 4]},
            "reduction": reduction,
        }
    )
    model = build_segmenter(config)
    for head in (*model.exit_heads.values(), model.decoder):
        sharpen(head)
    entry = describe(config, get_spec("camvid"), protocol or Protocol())
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "stepseg": entry, "global_step": 0}, path)
    return config


def run(output, *typed):
    predict(compose_config("predict", ["device=cpu", "pictures=[]", *typed], output))
    return json.loads((output / "result.json").read_text())


@pytest.mark.parametrize("reduction", [{"merge": MERGE, "exit": EXIT}, {"merge": None}])
def test_the_overrides_are_the_settings(reduction, tmp_path):
    config = write_checkpoint(tmp_path / "best.ckpt", reduction)
    data = write_camvid(tmp_path / "data", train=1, val=2)
    typed = [f"ckpt_path={tmp_path / 'best.ckpt'}", f"input={data / 'images/val'}"]
    result = run(tmp_path / "out", *typed, "explorer=true")
    assert result["explorer"] == "explorer.html"
    settings = [
        {"merge": True, "mode": "thresholds", "thresholds": [0.25, 0.755]},
        {"merge": True, "mode": "counts", "counts": [7, 2], "cells": 1024},
        {"merge": False},
    ]
    if "exit" in reduction:
        settings[0] |= {"exits": True, "exit": 0.615, "keep": 3, "blocks": [1, 2]}
        settings[1] |= {"exits": False}
    with chromium() as browser:
        page, problems = open_page(browser, tmp_path / "out" / "explorer.html")
        commands = page.evaluate(
            "settings => settings.map(given => { const {page, common, overrides} = window.explorer;"
            " return overrides({...page.state, ...given}, common); })",
            settings,
        )
        assert problems == []
    for setting, command in zip(settings, commands, strict=True):
        cfg = compose_config("predict", [*typed, *shlex.split(command)], tmp_path / "composed")
        values = checkpoint_reduction(plain(cfg)["reduction"], config)
        chosen = ReductionConfig.from_dict(values).build()
        assert (chosen.merge is not None) == setting["merge"]
        if chosen.merge and setting["mode"] == "thresholds":
            assert chosen.merge.thresholds == (0.25, 0.755)
        elif chosen.merge:
            assert (chosen.merge.top_k, chosen.merge.top_k_cells) == ((7, 2), 1024)
        if "exits" in setting:
            assert chosen.exit_blocks == tuple(setting.get("blocks", ()))
        if setting.get("exits"):
            assert (chosen.exit.threshold, chosen.exit.keep_per_class) == (0.615, 3)


def test_windows_and_resizing_are_told(tmp_path):
    protocol = Protocol(mode="slide", resize_short=48, crop=(48, 48), stride=(32, 32), flip=True)
    write_checkpoint(tmp_path / "best.ckpt", {"merge": MERGE}, protocol)
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "a.png")
    run(
        tmp_path / "out",
        f"ckpt_path={tmp_path / 'best.ckpt'}",
        f"input={tmp_path / 'a.png'}",
        "explorer=true",
    )
    html = (tmp_path / "out" / "explorer.html").read_text()
    assert "in windows of 48 × 48 px; here it saw every image whole" in html
    assert "a was resized from 96 × 64 px" in html
    assert '"height":48,"width":72' in html
    assert "mirrored images are left out" in html


def test_what_no_page_can_hold_is_refused_before_anything_runs(tmp_path):
    for index in range(13):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / f"{index}.png")
    with pytest.raises(ValueError, match="at most 12 images, here are 13"):
        run(tmp_path / "out", "ckpt_path=missing.ckpt", f"input={tmp_path}", "explorer=true")
