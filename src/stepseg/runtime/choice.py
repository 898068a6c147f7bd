"""How a model is carried out at inference: operator by operator, or as graphs of two kinds."""

import torch

RUNTIMES = ("eager", "compile", "graphs")
CHOICES = ("auto", *RUNTIMES)

MEASURED_BEST = {"cpu": "compile"}
"""By device type, once warm (docs/benchmark.md). Where nothing has been measured, nothing is
compiled."""


def choose_runtime(name: str, device: torch.device) -> str:
    """Turn what a user writes into a runtime that works here.

    Args:
        name: ``eager``, ``compile``, or ``auto``: the fastest by measurement on this kind of
            device, which compiles at the first images of every stage (tens of seconds). Or
            ``graphs``: stages on the fixed, padded buffers that CUDA graphs need; on a CPU a
            rehearsal with equal results, slower by the padding, which ``auto`` never takes.
        device: where the model will run.

    Raises:
        ValueError: an unknown name, no C++ compiler to compile with, or graphs on a GPU.

    """
    check_runtime(name)
    wanted = MEASURED_BEST.get(device.type, "eager") if name == "auto" else name
    if wanted == "graphs":
        refuse_graphs(device)
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


def refuse_graphs(device: torch.device) -> None:
    """Refuse CUDA graphs where they would have to be captured, which nobody has tried."""
    if device.type == "cuda":
        raise ValueError(
            f"runtime=graphs on {device}: capturing CUDA graphs has not been run on a GPU yet, use "
            f"runtime=eager or runtime=compile"
        )


def _has_cpp_compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler  # seconds of imports
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True
