"""Images of every kind as pixels: files, Pillow images, arrays and tensors.

Files and Pillow images become upright pixels as in training, see `stepseg.data.files`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from stepseg.data.files import Pixels, read_pixels, rgb_pixels, upright

ImageLike = str | Path | Image.Image | NDArray[Any] | torch.Tensor


def is_image(value: object) -> bool:
    """Whether this is one image, rather than several."""
    return isinstance(value, str | Path | Image.Image | np.ndarray | torch.Tensor)


def as_pixels(image: ImageLike) -> Pixels:
    """Pixels of any one image.

    Args:
        image: a file, a Pillow image, an array ``[H, W, 3]`` or ``[H, W]`` of uint8, or a tensor
            ``[3, H, W]`` of uint8 or of floats in 0..1.

    Raises:
        ImageFileError: a file that cannot be read; names it.
        ValueError: an array or tensor of another shape or type.

    """
    if isinstance(image, str | Path):
        return read_pixels(Path(image))
    if isinstance(image, Image.Image):
        return rgb_pixels(upright(image))
    if isinstance(image, torch.Tensor):
        return _from_tensor(image)
    return _from_array(image)


def _from_array(array: NDArray[Any]) -> Pixels:
    array = np.asarray(array)
    if array.dtype != np.uint8:
        raise ValueError(
            f"an image array holds uint8 in 0..255, this one {array.dtype}: convert it first"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(
            f"an image array has the shape [H, W, 3] or [H, W], this one {list(array.shape)}; "
            f"pass several images as a list"
        )
    pixels = array[:, :, :3]
    return np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels.repeat(3, 2))


def _from_tensor(tensor: torch.Tensor) -> Pixels:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3) or 0 in tensor.shape:
        raise ValueError(
            f"an image tensor has the shape [3, H, W], this one {list(tensor.shape)}; pass several "
            f"images as a list"
        )
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        if not (tensor.min() >= 0 and tensor.max() <= 1):
            raise ValueError(
                f"an image tensor of floats lies in 0..1, this one in {tensor.min():g}.."
                f"{tensor.max():g}: undo its normalisation, the model has its own"
            )
        tensor = (tensor.float() * 255).round().to(torch.uint8)
    return _from_array(tensor.permute(1, 2, 0).numpy())
