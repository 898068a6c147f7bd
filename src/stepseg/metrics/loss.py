"""Loss terms over the images of a data set for which they can be told."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class LossMetric(Metric):
    """Means of named terms.

    States are sums of fixed length, so that all ranks take part in the same collectives, whichever
    terms their images have; a rank may have counted nothing at all.

    Args:
        names: of all terms that may come.

    """

    full_state_update = False
    higher_is_better = False
    sums: Tensor
    images: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.add_state("sums", torch.zeros(len(names), dtype=torch.float64), "sum")
        self.add_state("images", torch.zeros(len(names), dtype=torch.int64), "sum")

    def update(self, terms: Mapping[str, Tensor], num_images: int) -> None:
        """Count scalars that are means over `num_images` images."""
        for name, value in terms.items():
            index = self.names.index(name)
            self.sums[index] += value.detach().to(self.sums) * num_images
            self.images[index] += num_images

    def compute(self) -> dict[str, float]:
        """Mean of every term that was counted on any rank, and ``loss_images``, of how many."""
        counted = zip(self.names, self.sums.tolist(), self.images.tolist(), strict=True)
        means = {name: total / number for name, total, number in counted if number}
        return {**means, "loss_images": float(self.images.max())}
