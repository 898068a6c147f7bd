"""Weights of timm's models for `StagedViT`: every key accounted for, or an error.

Families name alike things differently: what is not called as in timm's plain ViT is renamed, and
maps that timm keeps apart are joined (queries, keys and values; gate and values of an MLP).
"""

import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from stepseg.vit.normalisation import of_pretrained
from stepseg.vit.staged import StagedViT
from stepseg.vit.timm_models import blank_model
from stepseg.weights.fit import check_fit
from stepseg.weights.read import read_weights

_LOG = logging.getLogger(__name__)

PREFIX_TOKENS = ("cls_token", "dist_token", "reg_token")
"""timm's, in the order of their rows."""

LEFT_OUT = {
    "classifier": ("head.", "head_dist.", "pre_logits.", "fc_norm."),
    "attention pooling": ("attn_pool.",),
    "mask token": ("mask_token",),
    "tables of rotary positions": ("rope.", "rope_embed."),
}
"""What a segmentation encoder does not have, by the beginning of its keys."""

JOINED = {
    "attn.qkv.weight": ("attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight"),
    "attn.qkv.bias": ("attn.q_proj.bias", "attn.k_proj.bias", "attn.v_proj.bias"),
    "mlp.fc1.weight": ("mlp.fc1_g.weight", "mlp.fc1_x.weight"),
    "mlp.fc1.bias": ("mlp.fc1_g.bias", "mlp.fc1_x.bias"),
}
AUTHORS_NAMES = ("storage_tokens", "register_tokens", "conv1.weight", "visual.conv1.weight")
"""A key that only the authors' own files have: DINOv3, DINOv2 with registers, PE."""
RENAMED = {
    "gamma_1": "ls1.gamma",
    "gamma_2": "ls2.gamma",
    "attn.q_proj.bias": "attn.q_bias",
    "attn.v_proj.bias": "attn.v_bias",
}


def load_timm_pretrained(vit: StagedViT, name: str) -> dict[str, list[str]]:
    """Load the weights of a timm model by name, e.g. ``vit_base_patch16_384.augreg_in21k_ft_in1k``.

    Returns:
        As `load_timm_state`.

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
    return load_timm_state(vit, state, source=name)


def load_timm_checkpoint(
    vit: StagedViT, path: str | Path, name: str | None = None
) -> dict[str, list[str]]:
    """Load a local file of weights (``.safetensors``, or saved by `torch.save`).

    Args:
        vit: the encoder.
        path: a state dict by timm's names, or by those of the authors.
        name: of the timm model, which knows its authors' names.

    Returns:
        As `load_timm_state`.

    """
    path = checkpoint_file(path)
    state = read_weights(path, f"backbone.checkpoint={str(path)!r}").state
    if name is not None and not state.keys().isdisjoint(AUTHORS_NAMES):
        state = by_timm_names(state, blank_model(name), str(path))
    return load_timm_state(vit, state, source=str(path))


def checkpoint_file(path: str | Path) -> Path:
    """The path of a local file of weights, if there is one."""
    if not Path(path).is_file():
        raise ValueError(f"backbone.checkpoint={str(path)!r} is not a file")
    return Path(path)


def by_timm_names(state: Mapping[str, Tensor], model: nn.Module, source: str) -> dict[str, Tensor]:
    """Weights as their authors published them, by the names that timm gives them.

    Raises:
        ValueError: timm does not know them as this model's.

    """
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return dict(rename(dict(state), model)) if rename else dict(state)
    except Exception as error:
        raise ValueError(
            f"{source} is not a checkpoint of this ViT, nor one that timm can translate "
            f"({type(error).__name__}: {error})"
        ) from error


def load_timm_state(
    vit: StagedViT, state: Mapping[str, Tensor], source: str
) -> dict[str, list[str]]:
    """Copy a timm state dict into `vit`.

    The position grid becomes the checkpoint's: it is resized to the image on use. Patches of
    another size are resampled to the encoder's.

    Returns:
        The keys that were left out, by the reason.

    Raises:
        ValueError: a key is missing, unknown, or has another shape; the message names it.

    """
    own = vit.state_dict()
    for key in ("pos_embed", *PREFIX_TOKENS):
        if key in state and state[key].dim() != 3:
            raise ValueError(
                f"{source} is not a checkpoint of this ViT: {key} has shape "
                f"{tuple(state[key].shape)}, expected (1, tokens, {vit.dim})"
            )
    kept, left_out = _without_the_rest(vit, state)
    kept = _joined(kept)
    _place_prefix(vit, kept, state, source)
    if "pos_embed" in kept and kept["pos_embed"].shape[2] == vit.dim and "pos_embed" in own:
        own["pos_embed"] = kept["pos_embed"]
    _resample_patches(vit, kept)
    check_fit(own, kept, f"{source} is not a checkpoint of this ViT")
    if vit.pos_embed is not None and kept["pos_embed"].shape != vit.pos_embed.shape:
        positions = torch.empty_like(kept["pos_embed"], device=vit.mean.device)
        vit.pos_embed = nn.Parameter(positions, requires_grad=not vit.frozen)
    vit.load_state_dict(kept)
    said = "; ".join(f"{reason} ({', '.join(keys)})" for reason, keys in left_out.items())
    _LOG.info("weights of %s: %d taken over; left out: %s", source, len(kept), said or "nothing")
    return left_out


def _without_the_rest(
    vit: StagedViT, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """What the encoder needs, and the keys that it does not, by the reason."""
    reasons = dict(LEFT_OUT)
    if not vit.numbers.final_norm:
        reasons["final norm"] = ("norm.",)
    if not vit.numbers.prefix:
        reasons["class token and registers"] = PREFIX_TOKENS
    left_out: dict[str, list[str]] = {}
    for reason, beginnings in reasons.items():
        found = [key for key in state if key.startswith(beginnings)]
        if found:
            left_out[reason] = found
    gone = {key for keys in left_out.values() for key in keys}
    return {key: value for key, value in state.items() if key not in gone}, left_out


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Joined and renamed, block by block."""
    joined = dict(state)
    starts = {".".join(key.split(".")[:2]) for key in state if key.startswith("blocks.")}
    for start in sorted(starts):
        for ours, theirs in JOINED.items():
            keys = [f"{start}.{key}" for key in theirs]
            if all(key in joined for key in keys):
                joined[f"{start}.{ours}"] = torch.cat([joined.pop(key) for key in keys])
        for old, new in RENAMED.items():
            if f"{start}.{old}" in joined:
                joined[f"{start}.{new}"] = joined.pop(f"{start}.{old}")
    return joined


def _place_prefix(
    vit: StagedViT, kept: dict[str, Tensor], state: Mapping[str, Tensor], source: str
) -> None:
    """Join class token and registers, and give them their positions where they have any."""
    tokens = [state[key] for key in PREFIX_TOKENS if key in state]
    count = sum(token.shape[1] for token in tokens)
    expected, placed = vit.numbers.prefix, 0
    if expected and count != expected:
        raise ValueError(
            f"{source} is not a checkpoint of this ViT: it has {count} class and register tokens, "
            f"expected {expected}"
        )
    if "pos_embed" in kept:
        placed = _prefix_positions(kept["pos_embed"], count, source)
        kept["pos_embed"], positions = kept["pos_embed"][:, placed:], kept["pos_embed"][:, :placed]
    for key in PREFIX_TOKENS:
        kept.pop(key, None)
    if expected:
        kept["prefix"] = torch.cat(tokens, 1)
        if placed and kept["prefix"].shape[2] == positions.shape[2]:
            kept["prefix"] = kept["prefix"] + positions


def _prefix_positions(pos_embed: Tensor, prefix: int, source: str) -> int:
    """How many of the positions are those of class token and registers."""
    for count in (prefix, 0):  # timm's no_embed_class: such tokens without a position
        positions = pos_embed.shape[1] - count
        if positions > 0 and math.isqrt(positions) ** 2 == positions:
            return count
    raise ValueError(
        f"{source}: pos_embed has {pos_embed.shape[1]} positions for {prefix} extra token(s) "
        f"and a grid of patches that is not square; resize it to a square grid first"
    )


def _resample_patches(vit: StagedViT, kept: dict[str, Tensor]) -> None:
    """Resize the kernel of the patch embedding so that resized patches give the same tokens."""
    key, side = "patch_embed.proj.weight", vit.patch_size
    weight = kept.get(key)
    if weight is None or weight.dim() != 4 or tuple(weight.shape[2:]) == (side, side):
        return
    kept[key] = resample_patch_embed(weight.float(), [side, side]).to(weight.dtype)
