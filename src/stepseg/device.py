"""Which device to compute on, and in which type."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Of weights and images at inference; logits are float32 in both."""


def choose_device(name: str) -> torch.device:
    """Turn what a user writes into a device that is there.

    Args:
        name: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        ValueError: no such device here.

    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name!r}: choose auto, cpu, cuda or cuda:<index>") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={name}: PyTorch {torch.__version__} sees no CUDA device here; use device=cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: there are {torch.cuda.device_count()} CUDA device(s)")
    return device
