"""cuDNN searches its fastest convolutions, for images of few sizes and at inference only.

A search times all algorithms for a shape, which pays where the shape comes again. Where every image
has its own size it would never end, and where results have to repeat it may choose otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import Lock

import torch
from torch import Tensor

MOST_SIZES = 4
"""For which a network searches; anew in every thread, since cuDNN's plans are a thread's own."""


class _Asked:
    """PyTorch's switch, which is one for all threads: on while any of them searches."""

    def __init__(self) -> None:
        self._lock, self._by, self._was = Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if self._by == 0:
                self._was = torch.backends.cudnn.benchmark
                torch.backends.cudnn.benchmark = True
            self._by += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._by -= 1
            if self._by == 0:
                torch.backends.cudnn.benchmark = self._was


_asked = _Asked()


class ConvolutionSearch:
    """Remembers the sizes of one network."""

    def __init__(self) -> None:
        self.sizes: set[tuple] = set()

    @contextmanager
    def over(self, images_B3HW: Tensor) -> Iterator[None]:
        """While convolutions of these images run."""
        with _asked if self._pays(images_B3HW) else nullcontext():
            yield

    def _pays(self, images_B3HW: Tensor) -> bool:
        repeats = torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
        if not images_B3HW.is_cuda or torch.is_grad_enabled() or repeats:
            return False
        size = (*images_B3HW.shape, images_B3HW.dtype)
        if size not in self.sizes and len(self.sizes) < MOST_SIZES:
            self.sizes.add(size)
        return size in self.sizes
