"""Every experiment composes with the command in its first lines, and says what can be built."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from commands import compose_config
from stepseg.build import build_segmenter
from stepseg.cli.config import model_config, plain, reduction_values
from stepseg.cli.hydra_command import check_root
from stepseg.cli.paths import config_dir, experiments_dir
from stepseg.data.specs import get_spec
from stepseg.grid.systems import named_system
from stepseg.lit.schedule import ReductionSchedule
from stepseg.model_config import ReductionConfig

FOLDER = Path(config_dir()) / "experiment"
PAGES = Path(experiments_dir())
FILES = sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml"))
CONFIGS = {"stepseg-train": "train", "stepseg-eval": "eval", "stepseg-benchmark": "benchmark"}


def command(name: str) -> tuple[str, list[str]]:
    """The command in the header of an experiment, with something in the place of dots."""
    for line in (FOLDER / f"{name}.yaml").read_text().splitlines():
        if line.startswith("# stepseg-"):
            words = shlex.split(line.lstrip("# "))
            arguments = [re.sub(r"=(\.\.\.|<.*)$", "=somewhere", word) for word in words[1:]]
            return CONFIGS[words[0]], [word for word in arguments if "=" in word]
    return "", []


def test_there_are_experiments():
    assert len(FILES) > 20


@pytest.mark.parametrize("name", FILES)
def test_composes(name, tmp_path):
    config, overrides = command(name)
    if not config:  # part of others, which name it in their defaults
        named = [f for f in FILES if f"/experiment/{name}" in (FOLDER / f"{f}.yaml").read_text()]
        assert named
        return
    assert f"experiment={name}" in overrides
    cfg = compose_config(config, overrides, tmp_path)
    check_root(cfg, config)
    values = plain(cfg)
    if config == "train":
        classes = get_spec(values["data"]["name"]).num_classes
        build_segmenter_on_meta(values, classes)
        assert values["trainer"]["val_check_interval"] <= values["trainer"]["max_steps"]
        return
    for system in values["reductions"]:
        named_system(system, values["systems"], placed_later=config == "eval")


def build_segmenter_on_meta(values, classes):
    with torch.device("meta"):
        model = build_segmenter(model_config(values, classes), load_weights=False)
    model.check(model.reduction)
    assert set(model.reduction.exit_blocks) <= set(model.exit_head_blocks)


SYSTEMS = {
    "none": (None, ()), "cts": (1, ()), "dcts": (4, ()), "dtop": (None, (6, 8)),
    "cts_dtop": (1, (6, 8)), "step": (4, (6, 8)),
}  # fmt: skip
"""How many window sizes a system merges, and after which blocks of a ViT-B tokens leave."""


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("experiment", ["paper/ade20k_vit_base", "scenes/train"])
def test_a_system_is_trained_as_it_is_evaluated(experiment, system, tmp_path):
    overrides = [f"experiment={experiment}", f"reduction={system}", "policy.checkpoint=p.ckpt"]
    values = plain(compose_config("train", [*overrides, "backbone=vit_base"], tmp_path))
    windows, blocks = SYSTEMS[system]
    full = ReductionConfig.from_dict(reduction_values(values["reduction"])).build()
    assert (len(full.merge.windows) if full.merge else None, full.exit_blocks) == (windows, blocks)
    assert values["policy"]["training"] == "frozen"
    schedule = ReductionSchedule(**values["schedule"])
    base = replace(full, exit=None, exit_blocks=())
    assert {schedule.at(step, 100, full) for step in range(80)} == {base}
    assert {schedule.at(step, 100, full) for step in range(80, 100)} == {full}


@pytest.mark.parametrize("number", range(1, 8))
def test_a_folder_for_each_table(number):
    folder = PAGES / f"table{number}"
    assert (folder / "README.md").is_file()
    assert (folder / "published.csv").is_file()


@pytest.mark.parametrize("number", [1, *range(3, 11)])
def test_a_folder_for_each_figure(number):
    assert (PAGES / f"figure{number}" / "README.md").is_file()


def test_the_policy_is_trained_by_the_recipe_of_cts(tmp_path):
    values = plain(compose_config("train", ["experiment=paper/policy", "data=ade20k"], tmp_path))
    optim, data = values["optim"], values["data"]
    assert [optim[key] for key in ("policy_lr", "policy_weight_decay", "schedule")] == [
        5e-5, 1e-3, "constant",
    ]  # fmt: skip
    assert (optim["warmup_steps"], values["trainer"]["max_steps"]) == (0, 50_000)
    assert (data["batch_size"], data["crop_size"]) == (8, [512, 512])
    assert data["augmentation"]["resize_ratio"] == [1, 1]
    assert values["loss"]["policy_balance"] is False
    assert values["policy"]["pretrained"] is True
