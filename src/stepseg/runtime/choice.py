"""How a model is carried out at inference: on which device, in which type, compiled or not."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Of weights and images at inference; logits are float32 in both."""

RUNTIMES = ("eager", "compile", "graphs")
CHOICES = ("auto", *RUNTIMES)


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


def choose_runtime(name: str, device: torch.device) -> str:
    """Turn what a user writes into a runtime that works here.

    Args:
        name: ``eager``, ``compile``, ``graphs``, or ``auto``: on a CPU ``compile``, which was
            measured to be the fastest once warm; on a GPU what is the fastest on the first batch.

    Returns:
        For `stepseg.runtime.apply.apply_runtime`.

    Raises:
        ValueError: an unknown name, no C++ compiler to compile with, or no GPU for graphs.

    """
    check_runtime(name)
    if device.type == "cuda":
        return name
    if name == "graphs":
        raise ValueError(
            f"runtime=graphs replays CUDA graphs and needs device=cuda, this is "
            f"device={device.type}: use runtime=compile, or auto"
        )
    if name == "eager" or _has_cpp_compiler():
        return "compile" if name == "auto" else name
    if name == "auto":
        return "eager"
    raise ValueError(
        "runtime=compile needs a C++ compiler on a CPU: install g++ or clang, name one by the "
        "environment variable CXX, or use runtime=eager"
    )


def check_runtime(name: str) -> None:
    """Refuse a name that says nothing, whatever the device."""
    if name not in CHOICES:
        raise ValueError(f"runtime={name!r}: choose one of {', '.join(CHOICES)}")


def _has_cpp_compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler  # seconds of imports
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True
