"""Fine-tuning: whatever fits of a checkpoint goes into a model of other classes or exits.

Class queries belong to classes by name, heads to their block; position grids are resized. What is
new keeps its random weights, and a line says what that is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stepseg.vit.pos_embed import resize_pos_embed

BY_CLASS = ("query_Cd", "classify.weight", "classify.bias")
"""Weights with a row for every class, by the end of their names."""
POSITIONS = "pos_embed"


@dataclass(slots=True)
class Transfer:
    """What was taken over, for people."""

    taken: int = 0
    new: list[str] = field(default_factory=list)
    """Weights of the model that stay as they were drawn."""
    unused: list[str] = field(default_factory=list)
    """Weights of the checkpoint that have no place."""
    new_classes: list[str] = field(default_factory=list)
    resized: str = ""

    def line(self) -> str:
        """One line."""
        said = [f"{self.taken} of {self.taken + len(self.new)} weights are taken over"]
        if self.resized:
            said.append(f"positions resized from {self.resized}")
        if self.new_classes:
            said.append(f"queries of {_few(self.new_classes)} are new")
        if self.new:
            said.append(f"new: {_few(_parts(self.new))}")
        if self.unused:
            said.append(f"not used: {_few(_parts(self.unused))}")
        return "; ".join(said)


def take_over(
    model: nn.Module,
    state: Mapping[str, Tensor],
    classes: Sequence[str],
    own_classes: Sequence[str],
) -> Transfer:
    """Load every weight that fits into a model, in place.

    Args:
        model: a segmenter, or one of its parts.
        state: weights by the model's names.
        classes: of the checkpoint.
        own_classes: of the model.

    """
    done = Transfer(new_classes=[name for name in own_classes if name not in classes])
    own = model.state_dict()
    for key, value in own.items():
        fitted = _fitted(key, value, state.get(key), classes, own_classes)
        if fitted is None:
            done.new.append(key)
            continue
        if key.endswith(POSITIONS) and state[key].shape != value.shape:
            done.resized = " to ".join(_grid(grid) for grid in (state[key], value))
        own[key] = fitted
        done.taken += 1
    done.unused = [key for key in state if key not in own]
    if not any(key.endswith(BY_CLASS) for key in own):
        done.new_classes = []
    model.load_state_dict(own)
    return done


def _fitted(
    key: str,
    own: Tensor,
    value: Tensor | None,
    classes: Sequence[str],
    own_classes: Sequence[str],
) -> Tensor | None:
    """The checkpoint's weight in the model's shape; None where it does not fit."""
    if value is None:
        return None
    if key.endswith(BY_CLASS) and value.shape[1:] == own.shape[1:]:
        rows = {name: row for row, name in enumerate(classes)}
        both = [name in rows for name in own_classes]
        queries = own.clone()
        queries[torch.tensor(both)] = value[[rows[n] for n in own_classes if n in rows]].to(own)
        return queries
    if key.endswith(POSITIONS) and value.shape[2:] == own.shape[2:]:
        side = math.isqrt(own.shape[1])
        return resize_pos_embed(value, (side, side)).flatten(1, 2)
    return value if value.shape == own.shape else None


def _grid(positions: Tensor) -> str:
    side = math.isqrt(positions.shape[1])
    return f"{side} x {side}"


def _parts(keys: Sequence[str]) -> list[str]:
    """Weights by the part that they belong to, in words, each once."""
    named: dict[str, None] = {}
    for key in keys:
        part, _, rest = key.partition(".")
        number = rest.partition(".")[0]
        if part == "exit_heads":
            part = f"the head after block {number}"
        elif rest.startswith("blocks."):
            part = f"{part} block {int(rest.split('.')[1]) + 1}"
        named[part] = None
    return list(named)


def _few(words: Sequence[str], most: int = 6) -> str:
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")
