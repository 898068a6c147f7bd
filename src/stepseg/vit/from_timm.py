"""A live timm model as an encoder on packed tokens, weights included.

import timm
from stepseg import from_timm

encoder = from_timm(timm.create_model("vit_base_patch14_reg4_dinov2", pretrained=True))
[features_BYXD] = encoder.features(images)
"""

from dataclasses import replace
from typing import Any

from torch import nn

from stepseg.vit.normalisation import Normalisation
from stepseg.vit.staged import StagedViT
from stepseg.vit.timm_models import read_architecture
from stepseg.vit.weights import load_timm_state


def from_timm(
    model: nn.Module, *, patch_size: int | None = None, pos_antialias: bool = True
) -> StagedViT:
    """Turn a timm model into an encoder with copies of its weights, on its device, in its type.

    Args:
        model: one of the supported classes (`stepseg.vit.timm_models`).
        patch_size: side of the patches in pixels, to which their kernel is resampled; None: the
            model's own.
        pos_antialias: resize learned positions as timm does.

    Raises:
        ValueError: the model has features that are missing here; names them.

    """
    numbers = replace(read_architecture(model), pos_antialias=pos_antialias)
    if patch_size is not None:
        numbers = replace(numbers, patch_size=patch_size)
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    default = Normalisation()
    encoder = StagedViT(
        numbers,
        mean=tuple(config.get("mean", default.mean)),
        std=tuple(config.get("std", default.std)),
    )
    like = next(model.parameters())
    encoder.to(like.device, like.dtype)
    load_timm_state(encoder, model.state_dict(), source=type(model).__name__)
    return encoder.train(model.training)
