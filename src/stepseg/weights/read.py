"""The one door for files of weights: checkpoints of a training, safetensors, state dicts of others.

Whatever the file is: nothing in it runs, no size in it is believed, and weights are tensors by
name that hold finite numbers. What is wrong is one message that begins with the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from stepseg.weights.safetensors_file import KEY, is_safetensors, read_safetensors
from stepseg.weights.torch_file import read_torch_file

WRAPPERS = ("state_dict", "model")
"""Keys under which trainers of many projects keep the weights."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """What a file of weights holds."""

    state: dict[str, Tensor]
    """Weights by name, on the CPU."""
    entry: Any = None
    """The plain values under ``stepseg``, unchecked; None: a file of somebody else."""
    content: Mapping[str, Any] = field(default_factory=dict)
    """Everything in a file of `torch.save`; empty for safetensors."""


def read_weights(path: Path, source: str, *, checksums: bool = False) -> WeightFile:
    """Read a file of weights, whichever kind it is.

    Args:
        source: how messages begin, with the path in it.
        checksums: compare those of a file of `torch.save` too.

    Raises:
        ValueError: damaged, more than tensors and plain values, claims of more than it holds, no
            weights by name, or weights that are not finite.

    """
    try:
        if is_safetensors(path):
            state, entry = read_safetensors(path)
            file = WeightFile(state, entry)
        else:
            content = read_torch_file(path, checksums=checksums)
            entry = content.get(KEY) if isinstance(content, Mapping) else None
            file = WeightFile(_state_of(content), entry, content)
    except ValueError as error:
        raise ValueError(f"{source} {error}") from error
    except OSError as error:
        raise ValueError(f"{source} cannot be read: {error.strerror or error}") from error
    check_finite(file.state, source)
    return file


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are not numbers: a model with one of them says the same everywhere.

    Raises:
        ValueError: names the first such tensor.

    """
    for name, tensor in state.items():
        if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
            continue
        if tensor.is_complex() or tensor.element_size() < 2:  # no order, or 8 bits
            finite = bool(tensor.abs().float().isfinite().all())
        else:  # one pass that allocates nothing; NaN passes through both
            low, high = tensor.aminmax()
            finite = bool((high - high + low - low) == 0)
        if not finite:
            raise ValueError(
                f"{source} holds weights that are not finite numbers, the first in {name}: its "
                f"training has diverged, or the file is damaged; choose an earlier checkpoint"
            )


def _state_of(content: Any) -> dict[str, Tensor]:
    state = content
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping):
        raise ValueError(f"holds a {type(state).__name__}, not a state dict (tensors by name)")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"holds no state dict (tensors by name): {name!r:.80} is a {type(value).__name__}"
            )
    return dict(state)
