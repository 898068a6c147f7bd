"""Weights of timm's Vision Transformers for `StagedViT`: every key accounted for, or an error."""

import math
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor

from stepseg.vit.normalisation import of_pretrained
from stepseg.vit.staged import StagedViT
from stepseg.weights.fit import check_fit
from stepseg.weights.read import read_weights

EXTRA_TOKENS = ("cls_token", "reg_token", "dist_token")
NOT_USED = (*EXTRA_TOKENS, "norm.", "fc_norm.", "head.", "head_dist.", "pre_logits.")
"""Parts of a classifier that a plain segmentation encoder does not have."""


def load_timm_pretrained(vit: StagedViT, name: str) -> None:
    """Load the weights of a timm model by name, e.g. ``vit_base_patch16_384.augreg_in21k_ft_in1k``.

    Raises:
        ValueError: the model does not exist, cannot be fetched, or does not fit.

    """
    of_pretrained(name)  # refuses names that timm does not know
    try:
        state = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:
        raise ValueError(
            f"the weights of {name!r} could not be loaded ({type(error).__name__}: {error}). "
            f"Without network, copy a checkpoint of that model here and set "
            f"backbone.checkpoint=<file> (a .pth or .safetensors state dict), or set "
            f"backbone.pretrained=null to train from scratch"
        ) from error
    load_timm_state(vit, state, source=name)


def load_timm_checkpoint(vit: StagedViT, path: str | Path) -> None:
    """Load a local file with a timm state dict (``.safetensors``, or saved by `torch.save`)."""
    path = checkpoint_file(path)
    file = read_weights(path, f"backbone.checkpoint={str(path)!r}")
    load_timm_state(vit, file.state, source=str(path))


def checkpoint_file(path: str | Path) -> Path:
    """The path of a local file of weights, if there is one."""
    if not Path(path).is_file():
        raise ValueError(f"backbone.checkpoint={str(path)!r} is not a file")
    return Path(path)


def load_timm_state(vit: StagedViT, state: Mapping[str, Tensor], source: str) -> None:
    """Copy a timm state dict into `vit`; the class token and the classifier are left out.

    The position grid becomes the checkpoint's: it is resized to the image on use.

    Raises:
        ValueError: a key is missing, unknown, or has another shape; the message names it.

    """
    own = vit.state_dict()
    for key in ("pos_embed", *EXTRA_TOKENS):
        if key in state and state[key].dim() != 3:
            raise ValueError(
                f"{source} is not a checkpoint of this ViT: {key} has shape "
                f"{tuple(state[key].shape)}, expected (1, tokens, {vit.dim})"
            )
    extra_tokens = sum(state[key].shape[1] for key in EXTRA_TOKENS if key in state)
    state = {key: value for key, value in state.items() if not key.startswith(NOT_USED)}
    if "pos_embed" in state:
        state["pos_embed"] = _patch_positions(state["pos_embed"], extra_tokens, source)
        if state["pos_embed"].shape[2] == vit.dim:
            own["pos_embed"] = state["pos_embed"]
    check_fit(own, state, f"{source} is not a checkpoint of this ViT")
    if state["pos_embed"].shape != vit.pos_embed.shape:
        vit.pos_embed = torch.nn.Parameter(torch.empty_like(state["pos_embed"]))
    vit.load_state_dict(state)


def _patch_positions(pos_embed: Tensor, extra_tokens: int, source: str) -> Tensor:
    """Drop the positions of class and register tokens, where the checkpoint has them."""
    for prefix in (extra_tokens, 0):  # timm's no_embed_class: extra tokens without a position
        positions = pos_embed.shape[1] - prefix
        if positions > 0 and math.isqrt(positions) ** 2 == positions:
            return pos_embed[:, prefix:]
    raise ValueError(
        f"{source}: pos_embed has {pos_embed.shape[1]} positions for {extra_tokens} extra token(s) "
        f"and a grid of patches that is not square; resize it to a square grid first"
    )
