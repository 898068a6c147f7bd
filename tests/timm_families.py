"""Foundation ViTs as timm makes them, small: one for every way in which families differ."""

from functools import partial
from typing import Any

import torch
from timm.layers import GELUTanh, QuickGELU, SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

SIZES: dict[str, Any] = {"embed_dim": 48, "depth": 3, "num_heads": 3, "img_size": 64}
NORM = partial(nn.LayerNorm, eps=1e-5)
DINOV3: dict[str, Any] = {
    "use_rot_pos_emb": True,
    "use_abs_pos_emb": False,
    "rope_type": "dinov3",
    "rope_temperature": 100,
    "rope_rotate_half": True,
    "num_reg_tokens": 4,
    "use_fc_norm": False,
    "init_values": 1e-5,
    "norm_layer": NORM,
}
EVA02: dict[str, Any] = {"use_rot_pos_emb": True, "ref_feat_shape": (6, 6), "swiglu_mlp": True}

FAMILIES: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "deit": (VisionTransformer, {}),
    "deit_distilled": (VisionTransformerDistilled, {}),
    "deit3": (VisionTransformer, {"no_embed_class": True, "init_values": 1e-6}),
    "clip": (
        VisionTransformer,
        {"pre_norm": True, "norm_layer": NORM, "act_layer": QuickGELU},
    ),
    "siglip2": (
        VisionTransformer,
        {"class_token": False, "global_pool": "map", "act_layer": GELUTanh, "mlp_ratio": 3.7},
    ),
    "dinov2": (VisionTransformer, {"init_values": 1e-5, "patch_size": 14, "img_size": 56}),
    "dinov2_reg": (
        VisionTransformer,
        {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
    ),
    "dinov2_giant": (
        VisionTransformer,
        {"init_values": 1e-5, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 5.3334},
    ),
    "dinov3": (Eva, {**DINOV3, "qkv_bias": False}),
    "dinov3_qkvb": (Eva, DINOV3),
    "dinov3_plus": (
        Eva,
        {**DINOV3, "qkv_bias": False, "swiglu_mlp": True, "swiglu_align_to": 8, "mlp_ratio": 3.1},
    ),
    "eva02_small": (Eva, EVA02),
    "eva02_base": (Eva, {**EVA02, "qkv_fused": False, "scale_mlp": True}),
    "pe_spatial": (
        Eva,
        {
            "attn_type": "rope",
            "use_pre_transformer_norm": True,
            "use_rot_pos_emb": True,
            "ref_feat_shape": (6, 5),
            "rope_grid_offset": 1.0,
            "rope_grid_indexing": "xy",
            "use_fc_norm": False,
            "use_post_transformer_norm": False,
            "norm_layer": NORM,
        },
    ),
}


def timm_model(family: str, **changes: Any) -> Any:
    """A small model of a family."""
    kind, options = FAMILIES[family]
    model = kind(**(SIZES | {"num_classes": 7, "dynamic_img_size": True} | options | changes))
    return drawn(model)


def drawn(model: Any) -> Any:
    """In evaluation mode, with weights and factors that hide no mistake."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gamma" in name:  # at their usual 1e-5 nothing of a block would show
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif parameter.ndim == 3:
                parameter.normal_(std=0.5)
            else:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model.eval()


@torch.no_grad()
def timm_features(model: Any, images: Tensor, *, norm: bool) -> list[Tensor]:
    """timm's maps after every block, ``[B, Y, X, D]``, of images in [0, 1]."""
    config = getattr(model, "pretrained_cfg", None) or {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    maps = model.forward_intermediates((images - mean) / std, norm=norm, intermediates_only=True)
    return [features.permute(0, 2, 3, 1) for features in maps]
