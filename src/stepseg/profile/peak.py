"""The fastest matrix product of a device, to which a model's use of it is compared.

A peak from a data sheet is reached by no product; the share of what a plain large product reaches
here and now says how much the rest of the model costs.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from stepseg.profile.speed import clock

SIDE = {"cuda": 8192}
"""Of the square matrices; elsewhere `SIDE_ELSEWHERE`."""
SIDE_ELSEWHERE = 2048
SECONDS = 1.0
"""For each product: long enough to meet a moment in which nobody else uses the machine."""


@torch.inference_mode()
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-accumulates per second of the fastest of a few large products."""
    side = SIDE.get(device.type, SIDE_ELSEWHERE)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    products: list[Callable[[], object]] = [lambda: a @ b]
    if device.type == "cpu":
        # As a 1 x 1 convolution it goes to another library, on some processors the faster one.
        image, kernels = b.view(1, side, side, 1), a.view(side, side, 1, 1)
        products.append(lambda: F.conv2d(image, kernels))
    return side**3 / min(_fastest(product, device) for product in products)


def _fastest(product: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest call; the first ones load kernels."""
    calls: list[float] = []
    while not calls or sum(calls) < SECONDS:
        calls.append(clock(product, device).wall)
    return min(calls)
