"""How a model is carried out at inference: operator by operator, or as compiled graphs."""

import torch

RUNTIMES = ("eager", "compile")
CHOICES = ("auto", *RUNTIMES)

MEASURED_BEST = {"cpu": "compile"}
"""By device type, once warm (docs/benchmark.md). Where nothing has been measured, nothing is
compiled."""


def choose_runtime(name: str, device: torch.device) -> str:
    """Turn what a user writes into a runtime that works here.

    Args:
        name: ``eager``, ``compile``, or ``auto``: the fastest by measurement on this kind of
            device, which compiles at the first images of every stage (tens of seconds).
        device: where the model will run.

    Raises:
        ValueError: an unknown name, or no C++ compiler to compile with.

    """
    check_runtime(name)
    wanted = MEASURED_BEST.get(device.type, "eager") if name == "auto" else name
    if wanted != "compile" or device.type != "cpu" or _has_cpp_compiler():
        return wanted
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
