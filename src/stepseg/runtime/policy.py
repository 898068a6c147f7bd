"""The CNN of a policy as compiled graphs, one for each size of images (`stepseg.runtime.graph`).

Unlike the transformer it gets graphs for fixed sizes: a convolutional network with symbols for its
sides takes the compiler minutes. Crops and windows come in one size; where every image has its own,
the first few sizes are compiled and the others are not.

Letters: B images, H x W pixels, F features.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from stepseg.dcts.policy import PolicyNetwork
from stepseg.runtime.graph import Compiled

MOST = 4
"""Sizes that are compiled, at some seconds each."""


class CompiledFeatures(Compiled[PolicyNetwork]):
    """Stands in for `PolicyNetwork.last_features`."""

    dynamic = False

    def __call__(self, images_B3HW: Tensor) -> Tensor:
        """As the method."""
        size = tuple(images_B3HW.shape)
        full = len(self._graphs) == MOST and size not in self._graphs
        if torch.is_grad_enabled() or full:
            return self.module.features(images_B3HW)[-1]
        return self.graph(size)(images_B3HW)

    def function(self, key: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """The CNN's last features, for images of one shape."""
        features = self.module.features
        return lambda images_B3HW: features(images_B3HW)[-1]
