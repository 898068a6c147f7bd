"""Rotary positions of patches and superpatches: an angle is linear in where a token lies.

A superpatch lies at its centre, the mean of its cells, and its angles are those of that place. The
mean of its cells' sines and cosines would be no rotation. Prefix rows lie at 0 and do not turn.

Letters: T rows, T0 tokens after merging, N heads, K channels of a head, F = K / 4 frequencies of
either axis.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from stepseg.packed import TokenLayout
from stepseg.vit.architecture import RopeNumbers


@dataclass(frozen=True, slots=True)
class Rotation:
    """What turns queries and keys, for all blocks of a stage."""

    cos_T1A: Tensor
    """float32, of the K / 2 angles of every row."""
    sin_T1A: Tensor
    halves: bool
    """As of `RopeNumbers`."""

    def turn(self, x_TNK: Tensor) -> Tensor:
        """Rotate in float32, whatever the type of the queries or keys."""
        if self.halves:
            turned = torch.cat(self._turn(*x_TNK.chunk(2, dim=-1)), dim=-1)
        else:
            pairs = x_TNK.unflatten(-1, (-1, 2)).unbind(-1)
            turned = torch.stack(self._turn(*pairs), dim=-1).flatten(-2)
        return turned.to(x_TNK.dtype)

    def _turn(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.cos_T1A, self.sin_T1A
        return a * cos - b * sin, b * cos + a * sin


class Rope(nn.Module):
    """Places and angles of tokens; without learned weights.

    Args:
        numbers: of the family.
        head_dim: channels of an attention head, K.

    """

    frequencies_F: Tensor

    def __init__(self, numbers: RopeNumbers, head_dim: int) -> None:
        super().__init__()
        self.numbers, self.head_dim = numbers, head_dim
        self.register_buffer("frequencies_F", self._frequencies(), persistent=False)

    def places(self, layout: TokenLayout) -> Tensor:
        """Where the tokens of a layout lie, (y, x), float32 ``[T0, 2]``; at random in training."""
        places_T2 = self.places_of(layout.centres(), layout.grid)
        return self._moved(places_T2) if self.training else places_T2

    def places_of(self, centres_T2: Tensor, sides: tuple[int, int]) -> Tensor:
        """Of what lies around these centres, in cells, on a grid of these sides."""
        numbers = self.numbers
        y, x = centres_T2.unbind(1)
        if numbers.places == "centred":
            return torch.stack([2 * y / sides[0] - 1, 2 * x / sides[1] - 1], 1)
        rows, columns = numbers.ref_grid or sides
        y, x = y - 0.5 + numbers.offset, x - 0.5 + numbers.offset
        return torch.stack([y / sides[0] * rows, x / sides[1] * columns], 1)

    def _moved(self, places_T2: Tensor) -> Tensor:
        """DINOv3's augmentation: one movement for all places of a batch."""
        numbers = self.numbers

        def draw(most: float, count: int) -> Tensor:
            return places_T2.new_empty(count).uniform_(-most, most)

        if numbers.shift:
            places_T2 = places_T2 + draw(numbers.shift, 2)
        for factor, count in ((numbers.jitter, 2), (numbers.rescale, 1)):
            if factor != 1:
                places_T2 = places_T2 * draw(math.log(factor), count).exp()
        return places_T2

    def rotation(self, places_T2: Tensor) -> Rotation:
        """Of rows at these places."""
        first_and_second = places_T2.flip(1) if self.numbers.x_first else places_T2
        angles_TA = (first_and_second[:, :, None] * self.frequencies_F).flatten(1)
        return Rotation(
            angles_TA.cos()[:, None], angles_TA.sin()[:, None], halves=self.numbers.halves
        )

    def _frequencies(self) -> Tensor:
        """Radians per unit of a place."""
        count = self.head_dim // 4
        exponents = torch.arange(count, dtype=torch.float32, device="cpu") / count
        periods = self.numbers.temperature**exponents
        if self.numbers.bfloat16_periods:
            periods = periods.bfloat16().float()
        turn = 2 * math.pi if self.numbers.places == "centred" else 1.0
        return turn / periods

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow to another device, but never to fewer bits: angles are large."""
        super()._apply(fn, recurse)
        self.frequencies_F = self._frequencies().to(self.frequencies_F.device)
        return self
