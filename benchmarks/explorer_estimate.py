"""How far the explorer's estimates are from what the model does.

    python benchmarks/explorer_estimate.py best.ckpt IMAGE... --settings 20

Writes an explorer, draws random thresholds, asks the page for its estimate in a Chromium of the
system and runs the model at the same thresholds. The last row is the error of taking the nearest
exact run instead. Needs the `dev` extra (playwright).
"""

import argparse
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

from stepseg.checkpoint import read_checkpoint
from stepseg.dcts.merge import MergeRule
from stepseg.explorer import write_explorer
from stepseg.heads.exit import ConfidenceExit
from stepseg.macs import count_macs, total_macs
from stepseg.model import Reduction, StepSegmenter

ASK = """async ([index, thresholds, exit]) => {
  const {page, common, readImage, evaluate, sum} = window.explorer;
  const image = await (page.images[index] ||= readImage(index));
  const setting = {...page.state, merge: true, mode: "thresholds", thresholds, exits: true, exit};
  const {tokens, macs, nearest} = evaluate(setting, image, common);
  return {tokens, macs: sum(macs), nearest: sum(nearest.macs)};
}"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--settings", type=int, default=20, help="per image")
    arguments = parser.parse_args()
    checkpoint = read_checkpoint(arguments.checkpoint)
    model = checkpoint.build().prepare_for_inference()
    images = {path.stem: np.array(Image.open(path).convert("RGB")) for path in arguments.images}
    names, palette = checkpoint.data["classes"], checkpoint.data["palette"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        file = write_explorer(model, images, Path(folder) / "page.html", names, palette)
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page()
        page.goto(file.as_uri())
        page.wait_for_selector("body[data-ready]")
        rows = [
            compare(model, page, index, picture, random.Random(f"{index} {number}"))
            for index, picture in enumerate(images.values())
            for number in range(arguments.settings)
        ]
        browser.close()
    print(f"{len(rows)} settings: mean, mean absolute, largest absolute error")
    for name in rows[0]:
        errors = np.array([row[name] for row in rows])
        size = abs(errors)
        print(f"{name:30} {errors.mean():+8.2%} {size.mean():8.2%} {size.max():8.2%}")


def compare(
    model: StepSegmenter, page: Any, index: int, picture: np.ndarray, rng: random.Random
) -> dict[str, float]:
    """Errors at one random setting: tokens relative to those after merging, GMACs to their own."""
    assert model.policy is not None
    windows = tuple(model.policy.windows)
    thresholds = tuple(round(rng.uniform(0.3, 0.95), 3) for _ in windows)
    exit_ = ConfidenceExit(round(rng.uniform(0.75, 0.97), 3))
    guess = page.evaluate(ASK, [index, list(thresholds), exit_.threshold])
    images = torch.tensor(picture).permute(2, 0, 1)[None].float() / 255
    rule = MergeRule(windows=windows, thresholds=thresholds)
    blocks = model.reduction.exit_blocks
    with torch.no_grad():
        output = model(images, reduction=Reduction(merge=rule, exit=exit_, exit_blocks=blocks))
    tokens = [lengths[0] for lengths in output.tokens_per_stage]
    macs = total_macs(count_macs(model, output))[0]
    assert guess["tokens"][0] == tokens[0], "merging is exact"
    stages = {
        f"tokens after block {block}": (guess["tokens"][place] - tokens[place]) / tokens[0]
        for place, block in enumerate(blocks, start=1)
    }
    return stages | {
        "GMACs": guess["macs"] / macs - 1,
        "GMACs of the nearest exact run": guess["nearest"] / macs - 1,
    }


if __name__ == "__main__":
    main()
