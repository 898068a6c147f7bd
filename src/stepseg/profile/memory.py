"""Peak memory of one call: what PyTorch's allocator handed out on top of what was there before.

The weights and the inputs are there before, so that the figure is what a system adds. The memory of
the process is no substitute: it never shrinks, and hence tells the most greedy of several systems.

Not covered: buffers that libraries take from elsewhere (cuBLAS workspaces, for one).
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

MEBIBYTE = 2**20


def peak_memory_mb(call: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Run `call` once and return the peak of its allocations in MiB, above those at its start.

    On CUDA the caching allocator keeps the account. On the CPU the profiler's allocation events
    are added up, which slows the call down: do not time it at the same time.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MEBIBYTE
    # The profiler would report a missing GPU, and its start and stop, on standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        call()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(file))
        events = json.loads(file.read_bytes())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    total = peak = 0
    for event in sorted(changes, key=lambda event: event["args"]["Ev Idx"]):
        total += event["args"]["Bytes"]
        peak = max(peak, total)
    return peak / MEBIBYTE
