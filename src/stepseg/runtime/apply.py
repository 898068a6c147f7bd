"""Attach a runtime to a finished model, from outside: the method's modules know nothing of it.

A runtime stands in for single methods of single modules: the policy's CNN, the blocks between two
exits, the heads, or the whole forward pass. Modules, parameters and the state dict stay what they
are, and whatever needs gradients goes through the methods as ever.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from stepseg.dcts.policy import PolicyNetwork
from stepseg.heads.eomt import EomtHead
from stepseg.heads.linear import LinearHead
from stepseg.model import StepSegmenter
from stepseg.runtime.choice import RUNTIMES, check_runtime


def apply_runtime(model: StepSegmenter, runtime: str) -> StepSegmenter:
    """Let a runtime carry out a model, in place; the last that was applied counts.

    Args:
        model: ready for inference (`StepSegmenter.prepare_for_inference`). Weights that change
            later want the runtime applied again.
        runtime: ``eager``: the modules themselves. ``compile``: the policy, the blocks between
            exits and every head become compiled graphs at their first use
            (`stepseg.runtime.graph`). ``graphs``: CUDA graphs of compiled blocks and heads, from
            image to map (`stepseg.runtime.graphs`). ``auto``: the fastest of these on the first
            batch (`stepseg.runtime.trial`).

    Raises:
        ValueError: an unknown runtime.

    """
    check_runtime(runtime)
    makers = _compiled() if runtime == "compile" else {}
    for module, method in _seams(model):
        make = makers.get(method)
        stand_in(module, method, make(module) if make else None)
    stand_in(model, "forward", _whole(model, runtime))
    return model


def stand_in(module: nn.Module, method: str, instead: Callable[..., Any] | None) -> None:
    """Let a callable answer for a method of this one module; None: the method again."""
    vars(module).pop(method, None)
    if instead is not None:
        setattr(module, method, instead)


def _twin(model: StepSegmenter, runtime: str) -> StepSegmenter:
    """Another model under a runtime, of the same weights, which are not copied."""
    tensors = (*model.parameters(), *model.buffers())
    other = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    return apply_runtime(other, runtime)


def _compiled_twin(model: StepSegmenter) -> StepSegmenter:
    """For graphs: blocks and heads are compiled. The policy is not, which would take minutes."""
    other = _twin(model, "compile")
    if isinstance(other.policy, PolicyNetwork):
        stand_in(other.policy, "last_features", None)
    return other


def _whole(model: StepSegmenter, runtime: str) -> Callable[..., Any] | None:
    """What stands in for the model's forward pass."""
    if runtime == "graphs":
        from stepseg.runtime.graphs import Graphs

        return Graphs(model, _compiled_twin)
    if runtime == "auto":
        from stepseg.runtime.trial import Trial

        return Trial(model, {name: partial(_twin, runtime=name) for name in RUNTIMES})
    return None


def _seams(model: StepSegmenter) -> list[tuple[nn.Module, str]]:
    """Where a runtime may stand in: modules and their methods."""
    heads = [model.head(block) for block in (*model.exit_head_blocks, model.backbone.depth)]
    seams: list[tuple[nn.Module, str]] = [(model.backbone, "run_blocks")]
    for head in heads:
        if not isinstance(head, EomtHead):
            seams.append((head, "mask_logits" if isinstance(head, LinearHead) else "answer"))
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
