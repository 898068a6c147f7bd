"""Mean and deviation of the images that pretrained weights were trained on, RGB in [0, 1].

They differ between families of the same ViT: 0.5 for augreg, ImageNet's for DeiT, DINO and MAE.
timm keeps them by the name of the weights, and in a `config.json` beside the file when weights were
downloaded as a folder.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import timm

RGB = tuple[float, float, float]


class Normalisation(NamedTuple):
    """What an image is normalised by."""

    mean: RGB = (0.5, 0.5, 0.5)
    std: RGB = (0.5, 0.5, 0.5)


def of_pretrained(name: str) -> Normalisation:
    """By the name of timm's weights, with or without a tag; needs no network.

    Raises:
        ValueError: timm does not know the model, or not these weights of it.

    """
    if not timm.is_model(name.split(".")[0]):
        near = ", ".join(timm.list_models("vit_*patch16*")[:6])
        raise ValueError(f"timm has no model {name!r} (backbone.pretrained); for example: {near}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = ", ".join(timm.list_models(name.split(".")[0], pretrained=True))
        raise ValueError(
            f"timm has no weights {name!r} (backbone.pretrained); of that model it has: "
            f"{known or 'none'}"
        ) from error
    assert config is not None
    return _read(asdict(config), name)


def of_file(path: str | Path) -> Normalisation | None:
    """Out of timm's `config.json` beside a file of weights; None: there is none.

    Raises:
        ValueError: the `config.json` is not timm's.

    """
    config = Path(path).with_name("config.json")
    if not config.is_file():
        return None
    try:
        return _read(json.loads(config.read_text())["pretrained_cfg"], str(config))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{str(config)!r} beside the weights is not a timm configuration with a mean and std "
            f"of pretrained_cfg ({type(error).__name__}: {error}): set backbone.mean and "
            f"backbone.std"
        ) from error


def _read(config: Mapping[str, Any], source: str) -> Normalisation:
    pair = [tuple(float(value) for value in config[key]) for key in ("mean", "std")]
    if any(len(values) != 3 for values in pair):
        raise ValueError(f"{source}: mean and std are of {len(pair[0])} channels, expected 3 (RGB)")
    return Normalisation(*pair)  # type: ignore[arg-type]
