"""From a configuration to a model.

from stepseg.build import ModelConfig, build_segmenter

numbers = {"num_classes": 19, "backbone": {"name": "vit_base"}}
model = build_segmenter(ModelConfig.from_dict(numbers))
"""

from dataclasses import replace
from pathlib import Path
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
    numbers: dict[str, Any] = {
        "dim": vit.dim,
        "num_classes": config.num_classes,
        "head_dim": config.heads.dim or vit.dim // 2,
        "num_heads": config.heads.num_heads or atm_heads(vit.dim),
        "num_layers": config.heads.num_layers,
        "dropout": config.heads.dropout,
        "init": config.heads.init,
    }
    cascade, kind = config.heads.cascade, config.heads.exit
    calibrated = bool(config.heads.temperature_images)

    def exit_head() -> ExitHead:
        if kind == "linear":
            sizes = {key: numbers[key] for key in ("dim", "num_classes", "init")}
            return LinearHead(**sizes, calibrated=calibrated)
        return AtmHead(
            **numbers | ({"num_layers": 1} if kind == "atm1" else {}), calibrated=calibrated
        )

    exit_, inside = config.reduction.exit, config.reduction.inside
    scored = inside.places(vit.depth) if isinstance(inside, Cropr) else ()
    decoder: AtmHead | EomtHead
    if config.heads.eomt is not None:
        classes, eomt = config.num_classes, config.heads.eomt
        decoder = EomtHead(dim=vit.dim, depth=vit.depth, num_classes=classes, numbers=eomt)
    elif cascade:
        among_all = config.heads.among_all
        decoder = CascadedHead(earlier_blocks=cascade, among_all=among_all, **numbers)
    else:
        decoder = AtmHead(among_all=config.heads.among_all, **numbers)
    if config.heads.frozen_decoder and isinstance(decoder, AtmHead):
        decoder.freeze()
    return StepSegmenter(
        backbone=vit,
        decoder=decoder,
        exit_heads={b: exit_head() for b in (exit_.head_blocks if exit_ else ())},
        policy=(
            build_policy(config.policy, load_weights=load_weights, patch_size=vit.patch_size)
            if config.policy
            else None
        ),
        reduction=config.reduction.build(),
        scorers={b: TokenScorer(dim=vit.dim, num_classes=config.num_classes) for b in scored},
        class_source=config.heads.class_source,
    )


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
    """Load the policy out of a checkpoint that `stepseg-train` wrote."""
    if not Path(path).is_file():
        raise ValueError(f"policy.checkpoint={path!r} is not a file")
    state = read_weights(Path(path), f"policy.checkpoint={path!r}").state
    prefixes = ("model.policy.", "policy.")
    own = {
        key.removeprefix(prefix): value
        for prefix in prefixes
        for key, value in state.items()
        if key.startswith(prefix)
    }
    try:
        policy.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(
            f"policy.checkpoint={path!r} does not fit policy.name={policy.name!r} with windows "
            f"{policy.windows}: {error}"
        ) from error
