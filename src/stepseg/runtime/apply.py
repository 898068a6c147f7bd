"""Attach a runtime to a finished model, from outside: the method's modules know nothing of it.

A runtime stands in for single methods of single modules: the policy's CNN, the blocks between two
exits, the heads. Modules, parameters and the state dict stay what they are, and whatever needs
gradients goes through the methods as ever.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from stepseg.dcts.policy import PolicyNetwork
from stepseg.heads.linear import LinearHead
from stepseg.model import StepSegmenter
from stepseg.runtime.choice import RUNTIMES


def apply_runtime(model: StepSegmenter, runtime: str) -> StepSegmenter:
    """Let a runtime carry out a model, in place; the last that was applied counts.

    Args:
        model: ready for inference (`StepSegmenter.prepare_for_inference`). Weights that change
            later want the runtime applied again.
        runtime: ``eager``: the modules themselves. ``compile``: the policy, the blocks between
            exits and every head become compiled graphs at their first use
            (`stepseg.runtime.graph`).

    Raises:
        ValueError: an unknown runtime.

    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime={runtime!r}: choose one of {', '.join(RUNTIMES)}")
    makers = _compiled() if runtime == "compile" else {}
    for module, method in _seams(model):
        make = makers.get(method)
        stand_in(module, method, make(module) if make else None)
    return model


def stand_in(module: nn.Module, method: str, instead: Callable[..., Any] | None) -> None:
    """Let a callable answer for a method of this one module; None: the method again."""
    vars(module).pop(method, None)
    if instead is not None:
        setattr(module, method, instead)


def _seams(model: StepSegmenter) -> list[tuple[nn.Module, str]]:
    """Where a runtime may stand in: modules and their methods."""
    heads = [model.head(block) for block in (*model.exit_head_blocks, model.backbone.depth)]
    seams: list[tuple[nn.Module, str]] = [(model.backbone, "run_blocks")]
    seams += [(h, "mask_logits" if isinstance(h, LinearHead) else "answer") for h in heads]
    if isinstance(model.policy, PolicyNetwork):
        seams.append((model.policy, "last_features"))
    return seams


def _compiled() -> dict[str, Callable[[Any], Callable[..., Any]]]:
    """What stands in for a method, made from its module."""
    from stepseg.runtime.heads import (
        CompiledHead,
        CompiledLinearHead,
    )  # these bring the compiler: long imports
    from stepseg.runtime.policy import CompiledFeatures
    from stepseg.runtime.stages import CompiledStages

    return {
        "run_blocks": CompiledStages,
        "answer": CompiledHead,
        "mask_logits": CompiledLinearHead,
        "last_features": CompiledFeatures,
    }
