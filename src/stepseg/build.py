"""From a configuration to a model.

from stepseg.build import ModelConfig, build_segmenter

numbers = {"num_classes": 19, "backbone": {"name": "vit_base"}}
model = build_segmenter(ModelConfig.from_dict(numbers))
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stepseg.dcts.policy import OraclePolicy, PolicyNetwork
from stepseg.heads.atm import AtmHead
from stepseg.heads.cascade import CascadedHead
from stepseg.heads.eomt import EomtHead
from stepseg.heads.linear import ExitHead, LinearHead
from stepseg.merging.rules import Cropr
from stepseg.merging.scorer import TokenScorer
from stepseg.model import StepSegmenter
from stepseg.model_config import BACKBONES, PATCH_SIZE, BackboneConfig, ModelConfig, PolicyConfig
from stepseg.vit.normalisation import Normalisation, of_file, of_pretrained
from stepseg.vit.staged import StagedViT
from stepseg.vit.weights import checkpoint_file, load_timm_checkpoint, load_timm_pretrained
from stepseg.weights.place import find_checkpoint
from stepseg.weights.read import read_weights

__all__ = ["ModelConfig", "build_policy", "build_segmenter", "resolved"]

POLICY_ALIASES = {"efficientnet_lite0": "tf_efficientnet_lite0"}
"""The policy of the paper, in the variant with the original's padding."""


def build_segmenter(config: ModelConfig, *, load_weights: bool = True) -> StepSegmenter:
    """Build a segmenter.

    Args:
        config: all numbers.
        load_weights: read `pretrained` and `checkpoint`; False when a full checkpoint follows.

    Raises:
        ValueError: parts do not fit together, or weights cannot be loaded; says which and why.

    """
    if load_weights:
        config = resolved(config)
    vit = _build_backbone(config.backbone, load_weights)
    decoder, exit_heads = _build_decoder(config, vit), _build_exit_heads(config, vit)
    policy = None
    if config.policy:
        policy = build_policy(config.policy, load_weights=load_weights, patch_size=vit.patch_size)
    inside, num_classes = config.reduction.inside, config.num_classes
    scored = inside.places(vit.depth) if isinstance(inside, Cropr) else ()
    return StepSegmenter(
        backbone=vit,
        decoder=decoder,
        exit_heads=exit_heads,
        policy=policy,
        reduction=config.reduction.build(),
        scorers={b: TokenScorer(dim=vit.dim, num_classes=num_classes) for b in scored},
        class_source=config.heads.class_source,
    )


def _build_decoder(config: ModelConfig, vit: StagedViT) -> AtmHead | EomtHead:
    heads, num_classes = config.heads, config.num_classes
    if heads.eomt is not None:
        return EomtHead(dim=vit.dim, depth=vit.depth, num_classes=num_classes, numbers=heads.eomt)
    numbers = _atm_numbers(config, vit) | {"among_all": heads.among_all}
    decoder: AtmHead
    if heads.cascade:
        decoder = CascadedHead(earlier_blocks=heads.cascade, **numbers)
    else:
        decoder = AtmHead(**numbers)
    if heads.frozen_decoder:
        decoder.freeze()
    return decoder


def _build_exit_heads(config: ModelConfig, vit: StagedViT) -> dict[int, ExitHead]:
    """By the block after which they stand."""
    kind, calibrated = config.heads.exit, bool(config.heads.temperature_images)
    numbers = _atm_numbers(config, vit)
    make: Callable[..., ExitHead] = AtmHead
    if kind == "linear":
        make, numbers = LinearHead, {k: numbers[k] for k in ("dim", "num_classes", "init")}
    elif kind == "atm1":
        numbers["num_layers"] = 1
    exits = config.reduction.exit
    return {b: make(**numbers, calibrated=calibrated) for b in (exits.head_blocks if exits else ())}


def _atm_numbers(config: ModelConfig, vit: StagedViT) -> dict[str, Any]:
    """What all ATM heads of a model have in common."""
    heads = config.heads
    return {
        "dim": vit.dim,
        "num_classes": config.num_classes,
        "head_dim": heads.dim or vit.dim // 2,
        "num_heads": heads.num_heads or atm_heads(vit.dim),
        "num_layers": heads.num_layers,
        "dropout": heads.dropout,
        "init": heads.init,
    }


def _build_backbone(config: BackboneConfig, load_weights: bool) -> StagedViT:
    default = Normalisation()
    vit = StagedViT(
        config.numbers(),
        drop_path=config.drop_path,
        checkpoint_blocks=config.checkpoint_blocks,
        frozen=config.frozen,
        mean=config.mean or default.mean,
        std=config.std or default.std,
    )
    if load_weights and config.pretrained:
        load_timm_pretrained(vit, config.pretrained)
    elif load_weights and config.checkpoint:
        timm_name = None if config.name in BACKBONES else config.name
        load_timm_checkpoint(vit, config.checkpoint, timm_name)
    return vit


def atm_heads(dim: int) -> int:
    """Attention heads of ATM heads for an encoder of so many channels, as in SegViT and DToP.

    They have half the encoder's channels, 64 to a head, but 32 where there are few.
    """
    most = dim // 128 if dim >= 384 else max(1, dim // 64)
    return next(heads for heads in range(most, 0, -1) if dim // 2 % heads == 0)


def resolved(config: ModelConfig) -> ModelConfig:
    """The configuration with all that its backbone's name and weights stand for.

    Numbers of timm's model, and the normalisation that pretrained weights need, told or known.

    Raises:
        ValueError: timm has no such weights, or a file does not say how it was trained.

    """
    backbone = config.backbone
    plain = backbone.name in BACKBONES
    if not plain:
        backbone = replace(backbone, architecture=backbone.numbers())
    if backbone.mean and backbone.std:
        return replace(config, backbone=backbone)
    known: Normalisation | None = Normalisation()
    if backbone.pretrained:
        known = of_pretrained(backbone.pretrained)
    elif backbone.checkpoint:
        known = of_file(checkpoint_file(backbone.checkpoint))
    if not plain and not backbone.pretrained and (known is None or not backbone.checkpoint):
        known = of_pretrained(backbone.name)  # all weights of such a model are of its family
    if known is None:
        raise ValueError(
            f"backbone.checkpoint={backbone.checkpoint!r} does not say how its images were "
            f"normalised: set backbone.mean and backbone.std, [0.5,0.5,0.5] both for timm's augreg "
            f"weights, [0.485,0.456,0.406] and [0.229,0.224,0.225] for DeiT, DINO and MAE, or put "
            f"timm's config.json beside the file"
        )
    mean, std = backbone.mean or known.mean, backbone.std or known.std
    return replace(config, backbone=replace(backbone, mean=mean, std=std))


def build_policy(
    config: PolicyConfig, *, load_weights: bool = True, patch_size: int = PATCH_SIZE
) -> PolicyNetwork | OraclePolicy:
    """Build a policy network, or the oracle that reads labels."""
    if config.name == "oracle":
        return OraclePolicy(windows=config.windows, patch_size=patch_size)
    policy = PolicyNetwork(
        name=POLICY_ALIASES.get(config.name, config.name),
        windows=config.windows,
        patch_size=patch_size,
        training=config.training,  # type: ignore[arg-type]
        pretrained=config.pretrained and load_weights,
    )
    if config.checkpoint and load_weights:
        _load_policy(policy, config.checkpoint)
    return policy


def _load_policy(policy: PolicyNetwork, path: str) -> None:
    """Load the policy out of a checkpoint of `stepseg-train`: a file, a run's folder, the hub."""
    source = f"policy.checkpoint={path!r}"
    try:
        file = find_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    state = read_weights(file, source).state
    own = {
        key.removeprefix("model.").removeprefix("policy."): value
        for key, value in state.items()
        if key.startswith(("model.policy.", "policy."))
    }
    try:
        policy.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(
            f"{source} does not fit policy.name={policy.name!r} with windows "
            f"{policy.windows}: {error}"
        ) from error
