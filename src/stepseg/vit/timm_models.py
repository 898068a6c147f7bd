"""What a timm model is, in our numbers: read from the model itself, never written down here.

Supported are timm's plain Vision Transformer (augreg, DeiT, MAE, DINOv2, SigLIP, TIPS, CLIP) and
its `Eva` with pre-norm blocks (DINOv3, EVA-02, Perception Encoder, LingBot). Anything else is
refused with the feature that is missing here.
"""

import difflib
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import timm
import torch
from timm.layers import GluMlp, LayerNorm, LayerScale, Mlp, PatchEmbed, SwiGLU
from timm.layers.attention import Attention, AttentionRope
from timm.layers.pos_embed_sincos import RotaryEmbeddingCat, RotaryEmbeddingDinoV3
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from stepseg.vit.architecture import Architecture, RopeNumbers

MODELS = (VisionTransformer, VisionTransformerDistilled, Eva)
NORMS = (LayerNorm, nn.LayerNorm)
GATED = (GluMlp, SwiGLU)
MODULES = ("vision_transformer", "deit", "eva")
"""Of timm, where a supported name may be found."""


def is_known(name: str) -> bool:
    """Whether timm has a model of this name; addresses on a hub or a disk are no names."""
    return timm.is_model(name) and "." not in name


def near_names(name: str) -> list[str]:
    """Names of timm that are spelt alike, without a tag."""
    return difflib.get_close_matches(name.split(".")[0], _names(), 3, 0.3)


def blank_model(name: str) -> nn.Module:
    """timm's model without any weights in memory, by a name that `is_known`."""
    assert is_known(name), name
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timm.create_model(name, num_classes=0)


@cache
def architecture_of(name: str) -> Architecture:
    """The numbers of a timm model by a name that `is_known`; needs no network.

    Raises:
        ValueError: it has features that are missing here; names them and the nearest model that is
            supported.

    """
    model = blank_model(name)
    missing = missing_features(model)
    if missing:
        raise ValueError(
            f"backbone.name={name!r} needs {'; '.join(missing)}, which is not supported; the "
            f"nearest that is: {_nearest_supported(name)}"
        )
    return read_architecture(model)


def read_architecture(model: nn.Module) -> Architecture:
    """The numbers of a live timm model, or of one without weights.

    Raises:
        ValueError: it has features that are missing here; names them.

    """
    missing = missing_features(model)
    if missing:
        raise ValueError(f"{type(model).__name__} of timm needs {'; '.join(missing)}: unsupported")
    vit: Any = model
    block = vit.blocks[0]
    attention, mlp = block.attn, block.mlp
    eva = isinstance(vit, Eva)
    scale = (block.gamma_1 is not None) if eva else isinstance(block.ls1, LayerScale)
    return Architecture(
        dim=vit.embed_dim,
        depth=len(vit.blocks),
        num_heads=attention.num_heads,
        hidden_dim=mlp.fc2.in_features,
        patch_size=vit.patch_embed.patch_size[0],
        patch_bias=vit.patch_embed.proj.bias is not None,
        prefix=vit.num_prefix_tokens,
        pos_grid=None if vit.pos_embed is None else vit.patch_embed.grid_size[0],
        rope=_rope(vit.rope) if eva and vit.rope is not None else None,
        norm_pre=isinstance(vit.norm_pre, NORMS),
        eps=block.norm1.eps,
        qkv_bias=_qkv_bias(attention),
        layer_scale=scale,
        activation=_activation(mlp) or "",
        mlp_norm=isinstance(mlp.norm, NORMS),
        final_norm=isinstance(vit.norm, NORMS),
    )


def missing_features(model: nn.Module) -> list[str]:
    """What a timm model has and this project has not, in words; empty: it is supported."""
    if type(model) not in MODELS:
        return [f"a model of the class {type(model).__name__}"]
    return list(_missing(model))


def _missing(vit: Any) -> Iterator[str]:
    patch, block = vit.patch_embed, vit.blocks[0]
    if type(patch) is not PatchEmbed or patch.proj.in_channels != 3:
        yield f"a patch embedding by {type(patch).__name__} of other than RGB patches"
    elif patch.patch_size[0] != patch.patch_size[1] or patch.grid_size[0] != patch.grid_size[1]:
        yield "patches or a grid of positions that are not square"
    if type(block) not in (Block, EvaBlock):
        yield f"blocks of the class {type(block).__name__}"
        return
    attention, mlp = block.attn, block.mlp
    if type(attention) not in (Attention, AttentionRope, EvaAttention):
        yield f"attention of the class {type(attention).__name__}"
        return
    if not isinstance(attention.q_norm, nn.Identity):
        yield "normalised queries and keys"
    if not isinstance(attention.norm, nn.Identity):
        yield "a norm on attended values"
    if getattr(attention, "gate", None) is not None:
        yield "gated attention"
    if getattr(attention, "num_kv_heads", attention.num_heads) != attention.num_heads:
        yield "fewer heads of keys than of queries"
    elif attention.head_dim * attention.num_heads != vit.embed_dim:
        yield "attention heads that are wider or narrower than the channels divided by them"
    if _activation(mlp) is None:
        yield f"an MLP of the class {type(mlp).__name__} with {type(mlp.act).__name__}"
    norms = [block.norm1, block.norm2, *(n for n in (mlp.norm, vit.norm, vit.norm_pre))]
    odd = {type(n).__name__ for n in norms if not isinstance(n, (*NORMS, nn.Identity))}
    if odd or isinstance(block.norm1, nn.Identity):
        yield f"norms of the class {', '.join(sorted(odd)) or 'Identity'}"
    if len({n.eps for n in norms if isinstance(n, NORMS)}) > 1:
        yield "norms with several values of eps"
    rope = getattr(vit, "rope", None)
    if rope is not None and type(rope) not in (RotaryEmbeddingCat, RotaryEmbeddingDinoV3):
        yield f"rotary positions of the class {type(rope).__name__}"
    elif rope is not None and not _plain_rope(rope):
        yield "rotary positions of pixels, of periods between two bounds or on one common scale"
    if isinstance(vit, Eva) and (block.gamma_1 is None) != (block.gamma_2 is None):
        yield "a LayerScale of attention alone"


def _plain_rope(rope: Any) -> bool:
    if isinstance(rope, RotaryEmbeddingDinoV3):
        bounded = rope.min_period is not None or rope.temperature is None
        return not bounded and rope.normalize_coords == "separate" and rope.grid_offset == 0
    return not rope.in_pixels and rope.grid_type == "index"


def _rope(rope: Any) -> RopeNumbers:
    centred = isinstance(rope, RotaryEmbeddingDinoV3)
    ref_grid = None if centred else rope.ref_feat_shape
    return RopeNumbers(
        places="centred" if centred else "index",
        temperature=float(rope.temperature),
        halves=bool(rope.rotate_half),
        x_first=rope.grid_indexing == "xy",
        offset=0.0 if centred else float(rope.grid_offset),
        ref_grid=None if ref_grid is None else (ref_grid[0], ref_grid[1]),
        shift=rope.shift_coords or 0.0,
        jitter=rope.jitter_coords or 1.0,
        rescale=rope.rescale_coords or 1.0,
    )


def _qkv_bias(attention: Any) -> str:
    """Keys of `EvaAttention` have no bias."""
    if isinstance(attention, EvaAttention):
        biased = attention.q_bias if attention.q_proj is None else attention.q_proj.bias
        return "none" if biased is None else "qv"
    maps = attention.qkv if getattr(attention, "q_proj", None) is None else attention.q_proj
    return "none" if maps.bias is None else "all"


def _activation(mlp: Any) -> str | None:
    """In our words; None: there is none."""
    act = mlp.act
    if type(mlp) in GATED:
        gate_first = type(mlp) is SwiGLU or not mlp.gate_last
        return "swiglu" if isinstance(act, nn.SiLU) and gate_first else None
    if type(mlp) is not Mlp:
        return None
    if isinstance(act, nn.GELU):
        return "gelu_tanh" if act.approximate == "tanh" else "gelu"
    return {"GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}.get(type(act).__name__)


def _names() -> list[str]:
    return [name for module in MODULES for name in timm.list_models(module=module)]


def _nearest_supported(name: str) -> str:
    """The nearest name whose model is supported; each try costs a fraction of a second."""
    names = [near for near in _names() if near != name]
    for near in difflib.get_close_matches(name, names, 6, 0.3):
        if not missing_features(blank_model(near)):
            return near
    return "vit_base_patch14_reg4_dinov2"
