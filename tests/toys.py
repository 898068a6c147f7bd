"""Toy models; untrained, yet tokens differ enough for some to merge and for some to leave."""

import copy
import functools
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stepseg.dcts.merge import MergeRule
from stepseg.dcts.policy import OraclePolicy, PolicyNetwork
from stepseg.heads.atm import AtmHead
from stepseg.heads.cascade import CascadedHead
from stepseg.heads.eomt import EomtHead, EomtNumbers
from stepseg.heads.exit import BudgetExit, ConfidenceExit, ExitRule, RandomExit, UniformExit
from stepseg.heads.linear import LinearHead
from stepseg.merging.rules import Algm, Cropr, ToMe
from stepseg.merging.scorer import TokenScorer
from stepseg.model import Reduction, StepSegmenter
from stepseg.packed import PackedTokens, Segments
from stepseg.vit.architecture import Architecture, RopeNumbers
from stepseg.vit.block import LayerScale
from stepseg.vit.staged import StagedViT

Module = TypeVar("Module", bound=nn.Module)

CLASSES = 5
DIM = 32
HEAD_BLOCKS = (1, 2, 3)
"""There is a head after each block but the last; tokens leave after `EXIT_BLOCKS`."""
EXIT_BLOCKS = (1, 3)

CONFIDENCE = ConfidenceExit(threshold=0.87, keep_per_class=1)
DCTS = MergeRule(windows=(2, 4), thresholds=(0.7, 0.75))


def _exits(rule: ExitRule) -> dict:
    return {"exit": rule, "exit_blocks": EXIT_BLOCKS}


SYSTEMS = {
    "dense": Reduction(),
    "cts": Reduction(merge=MergeRule(windows=(2,), thresholds=None, top_k=3)),
    "cts_sizes": Reduction(merge=MergeRule(windows=(2, 4), thresholds=None, top_k=(1, 1))),
    "dcts": Reduction(merge=DCTS),
    "dcts_edges": Reduction(
        merge=MergeRule(windows=DCTS.windows, thresholds=DCTS.thresholds, edge_weight=0.8)
    ),
    "dcts_area": Reduction(
        merge=MergeRule(windows=DCTS.windows, thresholds=DCTS.thresholds, resize="area")
    ),
    "dtop": Reduction(**_exits(CONFIDENCE)),
    "step": Reduction(merge=DCTS, **_exits(CONFIDENCE)),
    "step_uniform": Reduction(merge=DCTS, **_exits(UniformExit(CONFIDENCE))),
    "step_budget": Reduction(merge=DCTS, **_exits(BudgetExit((9, 4)))),
    "step_all_leave": Reduction(merge=DCTS, **_exits(ConfidenceExit(0.0, 0))),
    "step_random": Reduction(merge=DCTS, **_exits(RandomExit(CONFIDENCE, seed=3))),
}
"""Every system of the paper and every exit rule, for tests that hold for all of them."""


def new_vit(**numbers: Any) -> StagedViT:
    """An encoder as training starts it; numbers of `Architecture`, and arguments of `StagedViT`."""
    own = {field.name for field in fields(Architecture)}
    known = {key: numbers.pop(key) for key in own & set(numbers)}
    return StagedViT(Architecture(**{"hidden_dim": 4 * known["dim"]} | known), **numbers)


FOUNDATION: dict[str, Any] = {
    "prefix": 3,
    "rope": RopeNumbers(),
    "layer_scale": True,
    "activation": "swiglu",
    "mlp_norm": True,
    "qkv_bias": "qv",
    "norm_pre": True,
    "final_norm": True,
    "eps": 1e-5,
}
"""All that a foundation ViT may have and a plain one has not; for `toy_vit`."""


OTHERS = {
    "uniform": Reduction(merge=MergeRule(windows=(2,), thresholds=None, by="uniform")),
    "random": Reduction(merge=replace(DCTS, by="random", seed=3)),
    "random_top_k": Reduction(merge=MergeRule(windows=(2,), thresholds=None, top_k=3, by="random")),
    "smaller": Reduction(cell=24),
    "step_larger": Reduction(merge=DCTS, cell=12, **_exits(CONFIDENCE)),
    "tome": Reduction(inside=ToMe(r=0.15)),
    "tome_exit": Reduction(inside=ToMe(r=4, proportional=False), **_exits(CONFIDENCE)),
    "algm": Reduction(inside=Algm(threshold=0.3)),
    "algm_exit": Reduction(inside=Algm(threshold=0.3), **_exits(CONFIDENCE)),
    "cropr": Reduction(inside=Cropr(r=0.3)),
}
"""Other methods and controls, on `segmenter_of`."""


def segmenter_of(system: str, **changes: Any) -> StepSegmenter:
    """A toy segmenter with all that a system of `OTHERS` needs."""
    if system == "cropr":
        scorers = {block: TokenScorer(dim=DIM, num_classes=CLASSES, parts=2) for block in (2, 3)}
        changes = {"scorers": scorers, "exit_heads": {}} | changes
    return toy_segmenter(**changes)


def toy_vit(**changes: Any) -> StagedViT:
    numbers = {"dim": DIM, "depth": 4, "num_heads": 2, "hidden_dim": 2 * DIM, "pos_grid": 4}
    return sharpen(new_vit(**(numbers | changes)))


HEAD = {"dim": DIM, "num_classes": CLASSES, "head_dim": 16, "num_heads": 2, "num_layers": 2}


def toy_head(**changes: Any) -> AtmHead:
    return sharpen(AtmHead(**(HEAD | changes)))


def light_heads() -> dict[int, AtmHead | LinearHead]:
    """Exit heads of both light kinds after `HEAD_BLOCKS`, calibrated."""
    heads = {
        1: LinearHead(dim=DIM, num_classes=CLASSES, calibrated=True),
        2: AtmHead(**(HEAD | {"num_layers": 1}), calibrated=True),
        3: LinearHead(dim=DIM, num_classes=CLASSES, calibrated=True),
    }
    for head, temperature in zip(heads.values(), (1.4, 0.8, 0.7), strict=True):
        sharpen(head).get_buffer("temperature").fill_(temperature)
        if isinstance(head, LinearHead):
            head.classify.weight.data.mul_(5)
    return heads


def toy_cascade(**changes: Any) -> CascadedHead:
    """A decoder that reads blocks 1 and 2 besides the last."""
    return sharpen(CascadedHead(**({"earlier_blocks": (1, 2)} | HEAD | changes)))


def toy_cascaded_segmenter(**changes: Any) -> StepSegmenter:
    """A segmenter whose decoder is a cascade; it has no exits."""
    return toy_segmenter(decoder=toy_cascade(), exit_heads={}, **changes)


def toy_eomt_segmenter(**changes: Any) -> StepSegmenter:
    """A segmenter with an EoMT decoder, on an encoder with all that a foundation model has."""
    numbers = EomtNumbers(queries=6, blocks=2, upscale=2)
    head = EomtHead(dim=DIM, depth=4, num_classes=CLASSES, numbers=numbers)
    parts = {"backbone": toy_vit(**FOUNDATION), "decoder": sharpen(head), "exit_heads": {}}
    return toy_segmenter(**parts | changes)


def toy_policy(**changes: Any) -> PolicyNetwork:
    """A policy network whose scores differ between windows, as those of a trained one do."""
    return copy.deepcopy(_calibrated_policy(**({"windows": (2, 4)} | changes)))


@functools.cache
def _calibrated_policy(**options: Any) -> PolicyNetwork:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)  # the same network, whichever test asks first
        policy = PolicyNetwork(**({"name": "lcnet_050"} | options))
        randomise_batch_norm(policy)
        images = toy_images(4, 160, 160)
        _calibrate(policy.features, images)
        policy.eval()
        for window, logits in policy(images).items():
            if logits.numel():
                classifier = policy.classifier[str(window)]
                classifier.get_parameter("bias").sub_(logits.mean())
                for parameter in classifier.parameters():
                    parameter.mul_(1.5 / logits.std())
        for window, correction in policy.corrections.items():  # what forgets it decides otherwise
            correction.fill_(0.25)
            policy.classifier[str(window)].get_parameter("bias").sub_(0.25)
        return policy.train()


def toy_segmenter(*, policy: nn.Module | None = None, **changes: Any) -> StepSegmenter:
    """A segmenter of toy parts, in evaluation mode.

    Args:
        policy: None makes the toy policy network.
        changes: other constructor arguments.

    """
    of_vit = ("drop_path", "checkpoint_blocks", "frozen")
    vit_changes = {k: changes.pop(k) for k in of_vit if k in changes}
    head_changes = {k: changes.pop(k) for k in ("dropout",) if k in changes}
    parts: dict[str, Any] = {
        "backbone": toy_vit(**vit_changes),
        "decoder": toy_head(**head_changes),
        "exit_heads": {block: toy_head(**head_changes) for block in HEAD_BLOCKS},
        "policy": toy_policy() if policy is None else policy,
    }
    return StepSegmenter(**(parts | changes)).eval()


def toy_oracle(**changes: Any) -> OraclePolicy:
    return OraclePolicy(**({"windows": (2, 4)} | changes))


def toy_images(batch: int = 3, height: int = 80, width: int = 112) -> Tensor:
    """Smooth in one corner, noisy in the other, with a colour of its own for each image."""
    ramp = torch.linspace(0, 1, height)[:, None] * torch.linspace(0, 1, width)
    noise = torch.rand(batch, 3, height, width)
    return (torch.rand(batch, 3, 1, 1) * (1 - ramp) + noise * ramp).clamp(0, 1)


def toy_labels(batch: int = 3, height: int = 80, width: int = 112) -> Tensor:
    """Blocks of 32 px with random classes, a few pixels of other classes and of ignore.

    The first image has one class in its top-left 64 px, so that windows of all sizes occur.
    """
    blocks = torch.randint(0, CLASSES, (batch, -(-height // 32), -(-width // 32)))
    labels = blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, :height, :width].clone()
    specks = torch.rand(labels.shape)
    labels[specks < 0.0005] = 0
    labels[specks > 0.9995] = 255
    labels[0, :64, :64] = 2
    return labels


def packed(lengths: list[int], dim: int = DIM, **options: Any) -> PackedTokens:
    """Random tokens of images with these lengths, not merged from anything."""
    segments = Segments.from_lengths(lengths, "cpu")
    values = torch.randn(segments.total, dim, **options)
    return PackedTokens(values, segments, torch.arange(segments.total), segments.image_ids())


def sharpen(module: Module) -> Module:
    """Draw weights of unit gain: the initialisation for training makes all tokens look alike."""
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(child.weight, std=child.weight[0].numel() ** -0.5)
                if child.bias is not None:
                    nn.init.normal_(child.bias, std=0.1)
            if isinstance(child, nn.LayerNorm):
                nn.init.uniform_(child.weight, 0.5, 1.5)
                nn.init.normal_(child.bias, std=0.1)
            if isinstance(child, LayerScale):  # as small as at the start it would hide mistakes
                nn.init.uniform_(child.gamma, 0.5, 1.5)
        if isinstance(module, StagedViT):
            for learned in (module.pos_embed, module.prefix):
                if learned is not None:
                    nn.init.normal_(learned, std=0.5)
        if isinstance(module, AtmHead):
            module.layers[-1].get_submodule("cross_q").get_parameter("weight").mul_(6)
            module.presence.bias.copy_(torch.tensor([1.0, -1.0]))
    return module


def _calibrate(features: nn.Module, images: Tensor) -> None:
    """Set the running statistics of BatchNorm from `images`: without them the signal dies out."""
    norms = [child for child in features.modules() if isinstance(child, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    features.train()
    features(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def randomise_batch_norm(module: nn.Module) -> None:
    """Give BatchNorm statistics and weights that a mistake cannot hide behind."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.normal_(child.get_buffer("running_mean"), std=0.1)
            nn.init.uniform_(child.get_buffer("running_var"), 0.5, 1.5)
            nn.init.uniform_(child.weight, 0.5, 1.5)
            nn.init.normal_(child.bias, std=0.1)
