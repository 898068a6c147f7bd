"""Every choice of every group composes, and becomes what the library asks for."""

from dataclasses import fields
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate

from commands import compose_config
from gpu_pool.options import PoolOptions, RayOptions
from hydra_plugins.stepseg_launcher.launcher import register_launchers
from stepseg.cli.config import make_all, model_config, plain, reduction_values
from stepseg.cli.paths import config_dir
from stepseg.cli.train.length import fit_to_length
from stepseg.data.specs import get_spec
from stepseg.data.transforms import Augmentation
from stepseg.lit.optim import OptimConfig
from stepseg.losses import LossWeights
from stepseg.model_config import ReductionConfig


def choices(group):
    return sorted(path.stem for path in (Path(config_dir()) / group).glob("*.yaml"))


@pytest.mark.parametrize("name", choices("backbone"))
def test_backbones(name, tmp_path):
    config = model_config(plain(compose_config("train", [f"backbone={name}"], tmp_path)), 19)
    if name.startswith("vit_"):
        assert config.backbone.name in name
    elif name != "timm":  # an alias: family and size are those of timm's model
        words = name.replace("siglip2", "siglip").split("_")
        assert all(word in config.backbone.name for word in words)
    assert config.reduction.exit is not None
    # the paper's placement: 1/2 and 2/3 of the depth for ViT-Base, 1/3 and 2/3 for ViT-Large
    depth = config.backbone.numbers().depth
    third = round(depth / 3)
    expected = (third, 2 * third) if depth > 12 else (depth // 2, depth * 2 // 3)
    assert config.reduction.exit.blocks == expected
    assert config.backbone.numbers().patch_size == 16


@pytest.mark.parametrize(
    ("name", "merges", "exits"),
    [
        ("none", False, False),
        ("dense", False, False),
        ("cts", True, False),
        ("dcts", True, False),
        ("dtop", False, True),
        ("cts_dtop", True, True),
        ("step", True, True),
        ("smaller", False, False),
        ("uniform", True, False),
        ("random", True, False),
        ("tome", False, False),
        ("algm", False, False),
        ("algm_exit", False, True),
        ("cropr", False, False),
    ],
)
def test_reductions(name, merges, exits, tmp_path):
    values = plain(compose_config("train", [f"reduction={name}", "backbone=vit_base"], tmp_path))
    reduction = ReductionConfig.from_dict(reduction_values(values["reduction"])).build()
    assert (reduction.merge is not None) is merges
    assert reduction.exit_blocks == ((6, 8) if exits else ())
    assert set(choices("reduction")) >= {name}


@pytest.mark.parametrize(
    ("data", "threshold"),
    [("ade20k", 0.9), ("cityscapes", 0.9), ("cocostuff10k", 0.95), ("synthetic", 0.9)],
)
def test_exit_threshold_follows_the_data(data, threshold, tmp_path):
    values = plain(compose_config("train", [f"data={data}"], tmp_path))
    assert values["reduction"]["exit"]["threshold"] == threshold


@pytest.mark.parametrize("name", [name for name in choices("data") if name != "folder"])
def test_data(name, tmp_path):
    cfg = compose_config("train", [f"data={name}"], tmp_path)
    assert get_spec(cfg.data.name).num_classes >= 8


@pytest.mark.parametrize("name", choices("data"))
def test_every_part_of_the_augmentation_can_be_typed(name, tmp_path):
    typed = ["data.augmentation.photometric=false", "data.augmentation.flip=0"]
    values = plain(compose_config("train", [f"data={name}", *typed], tmp_path))["data"]
    known = {field.name for field in fields(Augmentation)}
    assert set(values["augmentation"]) == known
    assert values["augmentation"]["photometric"] is False


@pytest.mark.parametrize("name", choices("optim"))
def test_optimisers(name, tmp_path):
    values = plain(compose_config("train", [f"optim={name}"], tmp_path))["optim"]
    values["betas"] = tuple(values["betas"])
    assert OptimConfig(**values).lr > 0


@pytest.mark.parametrize("name", choices("loss"))
def test_losses(name, tmp_path):
    values = plain(compose_config("train", [f"loss={name}"], tmp_path))["loss"]
    weights = LossWeights(**values)
    assert (weights == LossWeights()) is (name == "segvit")


@pytest.mark.parametrize("name", [name for name in choices("trainer") if "cpu" in name])
def test_trainers(name, tmp_path):
    values = plain(compose_config("train", [f"trainer={name}"], tmp_path))
    assert fit_to_length(values) == []
    trainer = instantiate(values["trainer"])
    assert (trainer.max_steps, trainer.val_check_interval) == (340, 85)
    assert trainer.num_devices == (2 if name == "ddp_cpu" else 1)


@pytest.mark.parametrize("name", [name for name in choices("trainer") if "cpu" not in name])
def test_gpu_trainers_compose(name, tmp_path):
    cfg = compose_config("train", [f"trainer={name}"], tmp_path)
    assert cfg.trainer.accelerator == "gpu"
    assert cfg.trainer.max_steps * cfg.trainer.val_check_interval % 1 == 0


@pytest.mark.parametrize("name", choices("logger"))
def test_loggers(name, tmp_path):
    cfg = compose_config("train", [f"logger={name}"], tmp_path)
    loggers = make_all("logger", cfg.get("logger"))
    assert len(loggers) == {"none": 0, "wandb": 2}.get(name, 1)  # W&B always beside the CSV


@pytest.mark.parametrize("name", choices("policy"))
def test_policies(name, tmp_path):
    values = plain(compose_config("train", [f"policy={name}"], tmp_path))
    assert values["policy"]["name"] == name


@pytest.mark.parametrize("name", ["gpu_pool", "ray", *choices("hydra/launcher")])
@pytest.mark.parametrize("command", ["train", "eval", "benchmark"])
def test_launchers(name, command, tmp_path):
    register_launchers()
    compose_config(command, [f"hydra/launcher={name}"], tmp_path)
    launcher = HydraConfig.get().launcher
    assert launcher["_target_"].startswith("hydra_plugins.stepseg_launcher.launcher.")
    made = instantiate(launcher)
    if kind := {"gpu_pool": PoolOptions, "ray": RayOptions}.get(name):
        assert kind(**made.options) == kind()  # every option is one that the launcher knows
