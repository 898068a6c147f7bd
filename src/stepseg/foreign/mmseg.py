"""SegViT and DToP as mmsegmentation saves them: names and shapes, every key accounted for.

SegViT (arXiv 2210.05844) has one decoder of three modules over three depths of the encoder, DToP
(arXiv 2308.01045) a head of one module after each. Which depths, how many attention heads and how
images are normalised stand in their configurations and not in their weights; here they are those of
the published configurations for Base and Large.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from stepseg.build import atm_heads
from stepseg.foreign.foreign import Foreign, describe_classes
from stepseg.model_config import (
    BackboneConfig,
    ExitConfig,
    HeadConfig,
    ModelConfig,
    ReductionConfig,
)
from stepseg.protocol import Protocol
from stepseg.vit.architecture import Architecture

DEPTHS = {12: (6, 8), 24: (8, 16)}
"""Blocks that are read besides the last, by the number of blocks."""
LEFT_OUT = re.compile(r"(.*\.)?criterion\.empty_weight|backbone\.cls_token|data_preprocessor\..*")
"""Of their training; the class token is not shown to the encoder."""

IN_BLOCK = {
    "ln1": "norm1", "ln2": "norm2",
    "attn.attn.in_proj_": "attn.qkv.", "attn.attn.out_proj": "attn.proj",
    "ffn.layers.0.0": "mlp.fc1", "ffn.layers.1": "mlp.fc2",
}  # fmt: skip
IN_LAYER = {
    "self_attn.in_proj_": "self_qkv.", "self_attn.out_proj": "self_proj",
    "multihead_attn.q": "cross_q", "multihead_attn.proj": "cross_proj",
    "linear1": "fc1", "linear2": "fc2", "norm1": "norm1", "norm2": "norm2", "norm3": "norm3",
}  # fmt: skip

WHOLE = {
    "q.weight": "query_Cd",
    "class_embed.weight": "presence.weight",
    "class_embed.bias": "presence.bias",
}
"""Of a head, beside its modules."""

READ_OFF = {
    "backbone.patch_embed.projection.weight": 4,
    "backbone.pos_embed": 3,
    "backbone.layers.0.ffn.layers.0.0.weight": 2,
    "decode_head.q.weight": 2,
}
"""Weights whose shapes say what the model is, with their dimensions."""

KNOWN_CLASSES = {150: "ade20k", 171: "cocostuff10k", 19: "cityscapes"}
LONG_EDGE = {150: 2048, 171: 2048}
"""By the number of classes: ADE20K and COCO-Stuff 10k are evaluated within this long edge and a
short one as long as windows are (2048 x 512, or x 640), Cityscapes in its own size."""
HALF = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def is_mmseg(state: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names of such a segmenter."""
    return "backbone.patch_embed.projection.weight" in state and "decode_head.q.weight" in state


def read_mmseg(state: Mapping[str, Tensor], content: Mapping[str, Any], source: str) -> Foreign:
    """Translate a checkpoint.

    Args:
        content: of the file, which may name classes.
        source: its path, for messages.

    Raises:
        ValueError: of another number of blocks or heads than the published ones, or weights that
            have no place, or do not fit.

    """
    model = Published.of(state, source)
    names = _class_names(content) or [f"LABEL_{index}" for index in range(model.classes)]
    foreign = Foreign(
        model.config(),
        our_names(state, model.blocks, model.layers),
        describe_classes(names, KNOWN_CLASSES.get(model.classes, "mmsegmentation")),
        model.protocol(),
        {"source": "mmsegmentation"},
    )
    foreign.check(f"{source} does not fit {model.name} of {model.depth} blocks")
    return foreign


@dataclass(frozen=True, slots=True)
class Published:
    """One of the published models, by the names and shapes of its weights."""

    cascaded: bool
    """SegViT: three modules of one decoder; otherwise DToP: a head at each depth."""
    exits: bool
    """Of DToP: whether the heads before the last are there."""
    classes: int
    dim: int
    """Channels of the encoder."""
    depth: int
    hidden: int
    patch: int
    side: int
    """Of the grid of positions."""
    head_dim: int
    layers: int
    """Of a module of a head."""

    @classmethod
    def of(cls, state: Mapping[str, Tensor], source: str) -> Self:
        """Read it off.

        Raises:
            ValueError: none of them.

        """
        cascaded = "decode_head.input_proj_1.weight" in state
        depth = 1 + max(_numbers(state, r"backbone\.layers\.(\d+)\."), default=-1)
        blocks, exits = DEPTHS.get(depth), _numbers(state, r"auxiliary_head\.(\d+)\.q\.weight")
        if blocks is None or (exits and len(exits) != len(blocks)) or (cascaded and exits):
            raise ValueError(
                f"{source} has {depth} blocks and {len(exits)} heads besides the decoder: known "
                f"are SegViT and DToP of 12 or 24 blocks, the latter with two"
            )
        _check_shapes(state, source)
        layers = _numbers(state, r"decode_head\.decoder(?:_1)?\.layers\.(\d+)\.")
        if not layers:
            raise ValueError(f"{source} is no whole SegViT or DToP: missing decode_head.decoder")
        dim, _, patch, _ = state["backbone.patch_embed.projection.weight"].shape
        classes, head_dim = state["decode_head.q.weight"].shape
        return cls(
            cascaded=cascaded,
            exits=bool(exits),
            classes=classes,
            dim=dim,
            depth=depth,
            hidden=state["backbone.layers.0.ffn.layers.0.0.weight"].shape[0],
            patch=patch,
            side=math.isqrt(state["backbone.pos_embed"].shape[1]),
            head_dim=head_dim,
            layers=1 + max(layers),
        )

    @property
    def name(self) -> str:
        """Of its encoder."""
        return "segvit" if self.cascaded else "dtop"

    @property
    def blocks(self) -> tuple[int, ...]:
        """That are read besides the last."""
        return DEPTHS[self.depth]

    def protocol(self) -> Protocol:
        """How images are shown where its figures were published."""
        crop, long = self.side * self.patch, LONG_EDGE.get(self.classes)
        return Protocol("slide", resize_short=(long, crop) if long else None, crop=(crop, crop))

    def config(self) -> ModelConfig:
        """The same in our words; it has no policy."""
        leaving = ExitConfig(blocks=self.blocks, threshold=0.9 if self.depth == 12 else 0.95)
        return ModelConfig(
            self.classes,
            self._backbone(),
            policy=None,
            heads=self._heads(),
            reduction=ReductionConfig(exit=leaving if self.exits else None),
        )

    def _backbone(self) -> BackboneConfig:
        mean, std = (HALF, HALF) if self.cascaded or self.depth == 24 else IMAGENET
        numbers = Architecture(
            dim=self.dim,
            depth=self.depth,
            num_heads=max(1, self.dim // 64),
            hidden_dim=self.hidden,
            patch_size=self.patch,
            pos_grid=self.side,
        )
        return BackboneConfig(
            name=self.name, mean=mean, std=std, architecture=numbers, patch_size=self.patch
        )

    def _heads(self) -> HeadConfig:
        return HeadConfig(
            num_layers=self.layers,
            dim=self.head_dim,
            num_heads=self.dim // 64 if self.cascaded else atm_heads(self.dim),
            cascade=self.blocks if self.cascaded else None,
            among_all=self.cascaded,
        )


def _check_shapes(state: Mapping[str, Tensor], source: str) -> None:
    """Refuse a file without what is read off, of which later checks could not even speak."""
    for key, dimensions in READ_OFF.items():
        if key not in state:
            raise ValueError(f"{source} is no whole SegViT or DToP: missing {key}")
        if state[key].ndim != dimensions:
            raise ValueError(
                f"{source} is no SegViT or DToP: {key} is {list(state[key].shape)}, expected "
                f"{dimensions} dimensions"
            )


def our_names(
    state: Mapping[str, Tensor], blocks: tuple[int, ...], num_layers: int
) -> dict[str, Tensor]:
    """Their weights by our names; what has none keeps its own, to be refused by it."""
    left = {k: v.detach().float() for k, v in state.items() if not LEFT_OUT.fullmatch(k)}
    ours: dict[str, Tensor] = {}
    positions = left.pop("backbone.pos_embed")
    side = math.isqrt(positions.shape[1])
    ours["backbone.pos_embed"] = positions[:, positions.shape[1] - side**2 :]
    modules: dict[str, dict[str, str]] = {"decode_head.": {"": "decoder."}}
    if "decode_head.input_proj_1.weight" in left:
        further = {f"_{n + 2}": f"decoder.further.{n}." for n in range(len(blocks))}
        modules = {"decode_head.": {"_1": "decoder.", **further}}
    else:
        for number, block in enumerate(blocks):  # none of a base that is not pruned yet
            modules[f"auxiliary_head.{number}."] = {"": f"exit_heads.{block}."}
    for theirs, by_suffix in modules.items():
        own = next(iter(by_suffix.values()))
        for key, name in WHOLE.items():
            if f"{theirs}{key}" in left:
                ours[f"{own}{name}"] = left.pop(f"{theirs}{key}")
        for suffix, module in by_suffix.items():
            _module(left, theirs, suffix, ours, module, num_layers)
    for key, value in left.items():
        ours[_in_backbone(key)] = value
    return {key: value.clone() for key, value in ours.items()}


def _module(
    left: dict[str, Tensor],
    theirs: str,
    suffix: str,
    ours: dict[str, Tensor],
    module: str,
    num_layers: int,
) -> None:
    """One module of a head; keys and values of all its layers are one map here."""
    decoder = f"{theirs}decoder{suffix}.layers."
    for kind in ("weight", "bias"):
        for name, own in (("input_proj", "input_proj"), ("proj_norm", "input_norm")):
            key = f"{theirs}{name}{suffix}.{kind}"
            if key in left:
                ours[f"{module}{own}.{kind}"] = left.pop(key)
        maps = [
            f"{decoder}{layer}.multihead_attn.{part}.{kind}"
            for layer in range(num_layers)
            for part in "kv"
        ]
        if all(key in left for key in maps):
            ours[f"{module}cross_kv.{kind}"] = torch.cat([left.pop(key) for key in maps])
    for key in [key for key in left if key.startswith(decoder)]:
        number, _, inner = key.removeprefix(decoder).partition(".")
        ours[f"{module}layers.{number}.{_replaced(inner, IN_LAYER)}"] = left.pop(key)


def _in_backbone(key: str) -> str:
    if key.startswith("backbone.patch_embed.projection."):
        return key.replace("projection", "proj")
    found = re.fullmatch(r"backbone\.layers\.(\d+)\.(.+)", key)
    return f"backbone.blocks.{found[1]}.{_replaced(found[2], IN_BLOCK)}" if found else key


def _replaced(inner: str, table: Mapping[str, str]) -> str:
    for theirs, own in table.items():
        if inner.startswith(theirs if theirs.endswith("_") else f"{theirs}."):
            return own + inner[len(theirs) :]
    return inner


def _numbers(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    found = (re.match(pattern, key) for key in state)
    return sorted({int(match[1]) for match in found if match})


def _class_names(content: Mapping[str, Any]) -> list[str] | None:
    """Out of the meta of a file, where some versions write them."""
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return None
    data = meta.get("dataset_meta")
    names = meta.get("CLASSES") or (data.get("classes") if isinstance(data, Mapping) else None)
    plain = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(names) if plain and names else None
