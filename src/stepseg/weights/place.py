"""Where a checkpoint lies: a file, the folder of a run, which means its best one, or the hub."""

from pathlib import Path

from stepseg.weights.hub import download, is_hub_address

NAMES = ("checkpoints/best.ckpt", "checkpoints/model.safetensors", "best.ckpt", "model.safetensors")
"""In the folder of a run, in one of checkpoints, or in one that was shared."""


def find_checkpoint(path: str | Path) -> Path:
    """The file behind what a user writes.

    Args:
        path: a file, a folder, or ``hf://user/name``.

    Raises:
        ValueError: there is none; says where it was looked for.

    """
    if is_hub_address(path):
        return download(str(path))
    place = Path(path).expanduser()
    if place.is_dir():
        found = next((place / name for name in NAMES if (place / name).is_file()), None)
        if found is None:
            raise ValueError(
                f"folder {str(path)!r} holds no checkpoint: none of {', '.join(NAMES)} is there; "
                f"a training writes the first after a validation"
            )
        return found
    if not place.is_file():
        raise ValueError(f"checkpoint {str(path)!r} does not exist")
    return place
