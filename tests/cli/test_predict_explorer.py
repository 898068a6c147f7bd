"""`stepseg-predict explorer=true`, and the overrides that its page offers."""

import json
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from commands import compose_config, write_camvid
from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint import describe
from stepseg.cli.config import checkpoint_reduction, plain
from stepseg.cli.predict.explorer import as_seen
from stepseg.cli.predict.job import predict
from stepseg.cli.reduction_file import register_reduction_files
from stepseg.data.specs import get_spec
from stepseg.explorer.page import STATIC
from stepseg.heads.exit import ConfidenceExit
from stepseg.model_config import ReductionConfig
from stepseg.protocol import Protocol, show_first
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


def in_script(html, expression, values=None):
    """A value from the page's own functions of its state, which need no browser."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js is installed on this system")
    (common,) = re.findall(r'id="common">(.*?)</script>', html, re.DOTALL)
    script = (
        f"{(STATIC / 'state.js').read_text()};"
        f"const LAYERS = {{}}, common = {common}, values = {json.dumps(values)};"
        f"console.log(JSON.stringify({expression}))"
    )
    done = subprocess.run([node, "-"], input=script, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def run(output, *typed):
    predict(compose_config("predict", ["device=cpu", "pictures=[]", *typed], output))
    return json.loads((output / "result.json").read_text())


STEP = [
    "reduction=step",
    "reduction.merge.windows=[2,4]",
    "reduction.merge.thresholds=[0.5,0.5]",
    "reduction.exit=null",
]
TUNED = "merge: {windows: [2, 4], top_k: [3, 1], thresholds: null}"


@pytest.mark.parametrize(
    ("reduction", "chosen"),
    [
        ({"merge": MERGE, "exit": EXIT}, []),
        ({"merge": MERGE, "exit": EXIT | {"rule": "margin"}}, []),
        ({"merge": None, "exit": EXIT | {"rule": "budget", "tokens": [5]}}, []),
        ({"merge": None}, []),
        ({"merge": None}, [*STEP, "resize_short=48", "scales=[1,0.5]"]),
        ({"merge": MERGE | {"resize": "area"}, "exit": EXIT}, ["reduction.exit=null"]),
        (
            {"merge": MERGE, "exit": EXIT, "budget": {"gmacs_per_image": 1.0}},
            ["reduction.budget=null", "reduction.exit=null"],
        ),
        ({"merge": None}, ["reduction=cts"]),
        ({"merge": None, "exit": EXIT}, ["FILE"]),
    ],
    ids="own margin budget none step area bound cts file".split(),
)
def test_the_overrides_are_the_settings(reduction, chosen, tmp_path):
    config = write_checkpoint(tmp_path / "best.ckpt", reduction)
    data = write_camvid(tmp_path / "data", train=1, val=1)
    if chosen == ["FILE"]:
        register_reduction_files()
        (tmp_path / "tuned.yaml").write_text(TUNED)
        chosen = [f"reduction={tmp_path / 'tuned.yaml'}"]
    typed = [f"ckpt_path={tmp_path / 'best.ckpt'}", f"input={data / 'images/val'}"]
    result = run(tmp_path / "out", *typed, *chosen, "explorer=true")
    assert result["explorer"] == "explorer.html"
    settings = [
        {"merge": True, "mode": "thresholds", "thresholds": [0.25, 0.755]},
        {"merge": True, "mode": "counts", "counts": [7, 2], "cells": 1024},
        {"merge": False},
    ]
    if "exit" in reduction:
        settings[0] |= {"exits": True, "exit": 0.615, "keep": 3, "blocks": [1, 2]}
        settings[1] |= {"exits": False}
        settings[2] |= {"exits": True, "exit": 0.615, "keep": 3, "blocks": [1, 2]}
    commands = in_script(
        (tmp_path / "out" / "explorer.html").read_text(),
        "values.map((given) =>"
        " `${common.command} ${overrides({...initialState(common), ...given}, common)}`)",
        settings,
    )
    for setting, command in zip(settings, commands, strict=True):
        name, *words = shlex.split(command)
        assert (name, words[0]) == ("stepseg-predict", "ckpt_path=best.ckpt")
        # as a user completes it, and not with what was typed before
        cfg = compose_config("predict", words, tmp_path / "composed")
        shown = [word for word in chosen if not word.startswith("reduction")]
        assert [word for word in words if word in shown] == shown
        values = checkpoint_reduction(plain(cfg)["reduction"], config)
        rule = ReductionConfig.from_dict(values).build()
        assert (rule.merge is not None) == setting["merge"]
        assert rule.gmacs_per_image is None
        if rule.merge:
            assert rule.merge.resize == (reduction["merge"] or {}).get("resize", "bilinear")
        if rule.merge and setting["mode"] == "thresholds":
            assert rule.merge.thresholds == (0.25, 0.755)
            assert rule.merge.edge_weight == (reduction["merge"] or {}).get("edge_weight", 0)
        elif rule.merge:
            assert (rule.merge.top_k, rule.merge.top_k_cells) == ((7, 2), 1024)
        if "exits" in setting:
            assert rule.exit_blocks == tuple(setting.get("blocks", ()))
        if setting.get("exits"):
            assert rule.exit == ConfidenceExit(0.615, 3)


def test_the_start_comes_back_whole():
    """Also the cells that its counts are for, which other runs change."""
    rule = {"counts": [3, 0], "cells": None}
    own = {"merge": rule, "threshold": 0.9, "keep": 5}
    paper = {"thresholds": [0.6, 0.8], "threshold": 0.9}
    common = {"own": own, "paper": paper, "windows": [2, 4], "exitBlocks": [], "ownExits": False}
    start, back = in_script(
        f'<script id="common">{json.dumps(common)}</script>',
        """(() => {
          const start = initialState(common);
          const cts = levelSettings({counts: [103, 0], cells: 1024});
          return [start, {...start, ...cts, ...ownSettings(common)}];
        })()""",
    )
    assert start["counts"] == [3, 0]
    assert back == start


def test_the_page_shows_the_pixels_of_a_prediction(tmp_path):
    protocol = Protocol(resize_short=48, scales=(0.5, 1.0))
    pixels = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    seen = as_seen(pixels, protocol)
    assert (seen.shape, seen.dtype) == ((48, 60, 3), np.uint8)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    expected = show_first(images, Protocol(resize_short=48))[0].permute(1, 2, 0).numpy()
    assert np.abs(seen / 255 - expected).max() <= 0.501 / 255
    assert (as_seen(pixels, Protocol()) == pixels).all()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("reduction=smaller", "knows nothing of"),
        ("reduction=tome", "knows nothing of"),
        ("reduction.budget.gmacs_per_image=1", "knows nothing of"),
    ],
)
def test_what_no_page_can_replay_is_refused_before_anything_runs(typed, message, tmp_path):
    write_checkpoint(tmp_path / "best.ckpt", {"merge": MERGE})
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    given = [f"ckpt_path={tmp_path / 'best.ckpt'}", f"input={tmp_path / 'a.png'}", typed]
    with pytest.raises(ValueError, match=message):
        run(out, *given, "explorer=true")
    assert [file.name for file in out.iterdir()] == ["result.json"]


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
