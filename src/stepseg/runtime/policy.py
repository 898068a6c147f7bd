"""The CNN of a policy as compiled graphs, one for each size of images (`stepseg.runtime.graph`).

Unlike the transformer it gets graphs for fixed sizes: a convolutional network with symbols for its
sides takes the compiler minutes. Crops and windows come in one size; where every image has its own,
the first few sizes are compiled and the others are not.

Letters: B images, H x W pixels, F features.
"""

from torch import Tensor, nn

from stepseg.runtime.graph import Backend, Graph

MOST = 4
"""Sizes that are compiled, at some seconds each."""


class CompiledFeatures:
    """Runs a CNN of timm as graphs; the last of its features is what counts.

    Args:
        features: its weights must not change any more.
        backend: who compiles.

    """

    def __init__(self, features: nn.Module, backend: Backend = "inductor") -> None:
        self.features, self.backend = features, backend
        self._graphs: dict[tuple[int, ...], Graph] = {}

    def run(self, images_B3HW: Tensor) -> Tensor:
        """Features ``[B, F, H / stride, W / stride]``."""
        size = tuple(images_B3HW.shape)
        if size not in self._graphs:
            if len(self._graphs) == MOST:
                return self.features(images_B3HW)[-1]
            self._graphs[size] = self._graph(size)
        return self._graphs[size](images_B3HW)

    def _graph(self, size: tuple[int, ...]) -> Graph:
        def last_features(images_B3HW: Tensor) -> Tensor:
            return self.features(images_B3HW)[-1]

        name = "policy_" + "_".join(map(str, size))
        return Graph(last_features, name, self.backend, dynamic=False)
