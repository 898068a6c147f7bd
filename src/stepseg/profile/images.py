"""Images for timing: real ones from a folder, or generated street scenes.

Both are different from each other, as images in use are: one image repeated hides what ragged
batches cost, and zeros make everything mergeable.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg.data.files import read_image
from stepseg.data.layouts import IMAGE_SUFFIXES
from stepseg.data.scenes.street import draw_scene
from stepseg.files.finding import files_below


def load_images(
    folder: str | Path | None, image_size: tuple[int, int], count: int, seed: int = 0
) -> Tensor:
    """The first `count` images, or fewer where the folder has fewer, ``[N, 3, H, W]`` in [0, 1].

    Files (searched in subfolders too, in the order of their paths) keep their aspect: each is
    resized so that it covers the size, and cropped in the middle.

    Args:
        folder: of image files; None generates street scenes.
        image_size: height and width of the result.
        count: how many.
        seed: of generated scenes.

    Raises:
        ValueError: no such folder, no image in it, or an image that cannot be read.

    """
    if folder is None:
        height, width = (max(64, side) for side in image_size)  # the smallest scene
        scenes = [draw_scene(height, width, (seed, index))[0] for index in range(count)]
        images = torch.stack([torch.from_numpy(scene) for scene in scenes])
        return images.permute(0, 3, 1, 2)[:, :, : image_size[0], : image_size[1]] / 255
    files = image_files(folder)[:count]
    return torch.stack([_cover(read_image(file), image_size) for file in files])


def image_files(folder: str | Path) -> list[Path]:
    """The image files of a folder, subfolders too, in the order of their paths.

    Raises:
        ValueError: no such folder, or no image in it.

    """
    if not Path(folder).is_dir():
        raise ValueError(f"images={str(folder)!r} is not a folder")
    inside = sorted(f for f in files_below(folder) if f.suffix.lower() in IMAGE_SUFFIXES)
    files = [file for file in inside if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise ValueError(
            f"images={str(folder)!r} holds no image ({', '.join(IMAGE_SUFFIXES)}), also not in "
            f"subfolders"
        )
    return files


def _cover(image_3HW: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Resize so that the image covers the size, antialiased, and crop the middle."""
    height, width = image_size
    scale = max(height / image_3HW.shape[1], width / image_3HW.shape[2])
    size = [
        max(side, round(length * scale))
        for side, length in zip(image_size, image_3HW.shape[1:], strict=True)
    ]
    resized = F.interpolate(
        image_3HW[None].float() / 255, size=size, mode="bilinear", antialias=True
    )[0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return resized[:, top : top + height, left : left + width].clamp(0, 1)
