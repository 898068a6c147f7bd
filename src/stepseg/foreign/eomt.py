"""EoMT of transformers (arXiv 2503.19108) on packed tokens: names and numbers, every key accounted.

`EomtForUniversalSegmentation` with DINOv2's encoder and `EomtDinov3ForUniversalSegmentation` with
DINOv3's, for semantic segmentation. Needs transformers, of the extra ``stepseg[eomt]``; imported
where a folder or a name on the hub is read.

What its image processor does is a protocol here: the short side resized with antialiasing, windows
of the training's size evenly spread along the long one, scores averaged.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepseg.foreign.foreign import Foreign, describe_classes
from stepseg.heads.eomt import EomtNumbers
from stepseg.model_config import BackboneConfig, HeadConfig, ModelConfig
from stepseg.protocol import Protocol
from stepseg.vit.architecture import Architecture, RopeNumbers

CLASSES = {
    "eomt": "EomtForUniversalSegmentation",
    "eomt_dinov3": "EomtDinov3ForUniversalSegmentation",
}
"""By `model_type`."""

LEFT_OUT = ("criterion.", "attn_mask_probs", "embeddings.mask_token", "embeddings.position_ids")
"""What belongs to their training."""

WHOLE = {
    "embeddings.patch_embeddings.projection": "backbone.patch_embed.proj",
    "embeddings.patch_embeddings": "backbone.patch_embed.proj",
    "layernorm": "backbone.norm",
    "query": "decoder.query_QD",
    "class_predictor": "decoder.classifier",
    "mask_head.fc1": "decoder.mask_mlp.0",
    "mask_head.fc2": "decoder.mask_mlp.1",
    "mask_head.fc3": "decoder.mask_mlp.2",
}
IN_BLOCK = {
    "norm1": "norm1", "norm2": "norm2",
    "attention.out_proj": "attn.proj", "attention.o_proj": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma",
    "mlp.fc1": "mlp.fc1", "mlp.up_proj": "mlp.fc1",
    "mlp.fc2": "mlp.fc2", "mlp.down_proj": "mlp.fc2",
}  # fmt: skip
IN_UPSCALE = {"conv1": "grow", "conv2": "mix", "layernorm2d": "norm"}


def is_eomt_folder(path: object) -> bool:
    """Whether a folder is one that transformers saved a model to."""
    if not isinstance(path, str | Path) or not (Path(path) / "config.json").is_file():
        return False
    return '"model_type"' in (Path(path) / "config.json").read_text(errors="replace")


def read_eomt(name: str, revision: str | None = None) -> Foreign:
    """Read a folder, or fetch a repository of the hub, through transformers.

    Raises:
        ValueError: another architecture or task, weights that do not fit, or nothing to be had.

    """
    if find_spec("transformers") is None:
        raise ValueError(f"{name!r} is read by transformers: pip install 'stepseg[eomt]'")
    import transformers
    from transformers.utils import logging

    where: dict[str, Any] = {"revision": revision} if revision else {}
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(name, **where)
        _check_kind(name, config.model_type)
        processor = transformers.AutoImageProcessor.from_pretrained(name, **where)
        kind = getattr(transformers, CLASSES[config.model_type])
        model, loaded = kind.from_pretrained(
            name, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **where
        )
    except (OSError, RuntimeError, ImportError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(f"transformers cannot load {name!r}: {first}") from error
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
    lacking = sorted({*loaded["missing_keys"], *map(str, loaded["unexpected_keys"])})
    if lacking:
        raise ValueError(
            f"{name!r} is no complete {CLASSES[config.model_type]}: {', '.join(lacking[:5])} "
            f"missing or unknown"
        )
    return translate(model, processor, source=str(name))


def translate(model: Any, processor: Any = None, *, source: str = "the model") -> Foreign:
    """A live model of transformers in our names; weights are copied in 32 bits.

    Args:
        model: of one of `CLASSES`.
        processor: its image processor, which says how images are shown; None: in windows of the
            training's size, normalised as ImageNet, as for the published semantic models.
        source: where it comes from, for messages and for the name of its data.

    Raises:
        ValueError: a feature that is missing here, a model for another task, or weights that do
            not fit.

    """
    config = model.config.to_dict()
    _check_kind(source, config.get("model_type"))
    _check_features(config, source)
    side = _side(config["image_size"], "image_size")
    protocol, mean, std = _shown(processor, side, source)
    their_state = model.state_dict()
    if "attn_mask_probs" in their_state and (their_state["attn_mask_probs"] > 0).any():
        raise ValueError(
            f"{source}: its masked attention is not annealed away (attn_mask_probs "
            f"{[round(float(p), 3) for p in their_state['attn_mask_probs']]}): queries see other "
            f"tokens than here; go on training until all are 0"
        )
    names = [name for _, name in sorted((int(k), str(v)) for k, v in config["id2label"].items())]
    backbone = BackboneConfig(
        name=config["model_type"],
        patch_size=_side(config["patch_size"], "patch_size"),
        mean=mean,
        std=std,
        architecture=_architecture(config, side),
    )
    decoder = EomtNumbers(
        queries=config["num_queries"],
        blocks=config["num_blocks"],
        upscale=config["num_upscale_blocks"],
    )
    foreign = Foreign(
        ModelConfig(len(names), backbone, policy=None, heads=HeadConfig(eomt=decoder)),
        our_names(their_state),
        describe_classes(names, Path(source).name),
        protocol,
        {"source": Path(source).name, "architecture": CLASSES[config["model_type"]]},
    )
    foreign.check(f"the weights of {source} do not fit its configuration")
    return foreign


def _check_kind(source: str, model_type: Any) -> None:
    if model_type not in CLASSES:
        raise ValueError(
            f"{source} holds a model of type {model_type!r}; of transformers these can be "
            f"accelerated: {', '.join(CLASSES)}"
        )


def _check_features(config: Mapping[str, Any], source: str) -> None:
    """Refuse what their configuration allows and no published model uses."""
    expected = {
        "hidden_act": "gelu",
        "num_channels": 3,
        "proj_bias": True,
        "mlp_bias": True,
        "use_gated_mlp": False,
    }
    odd = [f"{k}={config[k]!r}" for k, v in expected.items() if k in config and config[k] != v]
    if _qkv_bias(config) is None:
        odd.append("biases of queries, keys and values in another combination")
    if odd:
        raise ValueError(f"{source} has {', '.join(odd)}, which is not supported here")


def _architecture(config: Mapping[str, Any], side: int) -> Architecture:
    """The encoder; heads read it after the final norm."""
    dim, dinov3 = config["hidden_size"], config["model_type"] == "eomt_dinov3"
    gated = config.get("use_swiglu_ffn")
    hidden = config["intermediate_size"] if dinov3 else int(dim * config["mlp_ratio"])
    if gated:  # two thirds, in steps of 8
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    patch = _side(config["patch_size"], "patch_size")
    rope = config.get("rope_parameters") or {}
    return Architecture(
        dim=dim,
        depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_dim=hidden,
        patch_size=patch,
        prefix=1 + config["num_register_tokens"],
        pos_grid=None if dinov3 else side // patch,
        rope=RopeNumbers(temperature=float(rope.get("rope_theta", 100.0))) if dinov3 else None,
        eps=config["layer_norm_eps"],
        qkv_bias=_qkv_bias(config) or "",
        layer_scale=True,
        activation="swiglu" if gated else "gelu",
        final_norm=True,
    )


def _qkv_bias(config: Mapping[str, Any]) -> str | None:
    """In our words; None: there is none."""
    biases = tuple(config.get(f"{part}_bias", True) for part in ("query", "key", "value"))
    kinds = {(True, True, True): "all", (True, False, True): "qv", (False, False, False): "none"}
    return kinds.get(biases)


def _shown(
    processor: Any, side: int, source: str
) -> tuple[Protocol, tuple[float, float, float], tuple[float, float, float]]:
    """How images are shown, and their mean and deviation."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    short: int | None = side
    if processor is not None:
        if not processor.do_split_image:
            raise ValueError(
                f"{source} is a checkpoint for panoptic or instance segmentation: its image "
                f"processor pads whole images (do_split_image=false), that of a semantic one "
                f"splits them into windows; only semantic segmentation is supported"
            )
        if not (processor.do_normalize and processor.do_rescale):
            raise ValueError(f"{source}: its image processor leaves out scaling or normalisation")
        edge = processor.size["shortest_edge"]
        if edge != side:
            raise ValueError(
                f"{source}: its image processor makes windows of {edge} px, the model takes {side}"
            )
        short = edge if processor.do_resize else None
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    crop = (side, side)
    protocol = Protocol("slide", resize_short=short, crop=crop, even=True, antialias=True)
    return protocol, mean, std


def _side(size: Any, key: str) -> int:
    sides = {size} if isinstance(size, int) else {*size}
    if len(sides) != 1:
        raise ValueError(f"{key}={size} is not square, which is not supported here")
    return int(sides.pop())


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights by our names; what has none keeps its own, to be refused by it."""
    left = {k: v.detach().float() for k, v in state.items() if not k.startswith(LEFT_OUT)}
    ours: dict[str, Tensor] = {}
    prefix = [left.pop(f"embeddings.{k}_token{s}") for k, s in (("cls", ""), ("register", "s"))]
    ours["backbone.prefix"] = torch.cat(prefix, 1)
    if "embeddings.position_embeddings.weight" in left:
        ours["backbone.pos_embed"] = left.pop("embeddings.position_embeddings.weight")[None]
    ours["decoder.query_QD"] = left.pop("query.weight")
    blocks = sorted({int(key.split(".")[1]) for key in left if key.startswith("layers.")})
    for block in blocks:
        _join(left, f"layers.{block}", ours, f"backbone.blocks.{block}")
    for key, value in left.items():
        ours[_renamed(key)] = value
    return {key: value.clone() for key, value in ours.items()}


def _join(left: dict[str, Tensor], theirs: str, ours: dict[str, Tensor], block: str) -> None:
    """Queries, keys and values are one map here, and the gate of an MLP is one with its values."""
    maps = [f"{theirs}.attention.{part}_proj" for part in "qkv"]
    ours[f"{block}.attn.qkv.weight"] = torch.cat([left.pop(f"{m}.weight") for m in maps])
    if all(f"{m}.bias" in left for m in maps):
        ours[f"{block}.attn.qkv.bias"] = torch.cat([left.pop(f"{m}.bias") for m in maps])
    for part in "qv":
        key = f"{theirs}.attention.{part}_proj.bias"
        if key in left:
            ours[f"{block}.attn.{part}_bias"] = left.pop(key)
    for kind in ("weight", "bias"):
        gate, values = (f"{theirs}.mlp.{part}_proj.{kind}" for part in ("gate", "up"))
        if gate in left:
            ours[f"{block}.mlp.fc1.{kind}"] = torch.cat([left.pop(gate), left.pop(values)])


def _renamed(key: str) -> str:
    name, _, kind = key.rpartition(".")
    if name in WHOLE:
        return f"{WHOLE[name]}.{kind}"
    part, _, rest = key.partition(".")
    number, _, inner = rest.partition(".")
    if part == "layers":
        name, _, kind = inner.rpartition(".")
        own = IN_BLOCK.get(inner) or (f"{IN_BLOCK[name]}.{kind}" if name in IN_BLOCK else inner)
        return f"backbone.blocks.{number}.{own}"
    if key.startswith("upscale_block.block."):
        number, name, kind = key.removeprefix("upscale_block.block.").split(".")
        return f"decoder.upscale.{number}.{IN_UPSCALE.get(name, name)}.{kind}"
    return key
