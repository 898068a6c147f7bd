"""A stream of the GPU with what runs there in turn: recorded work and the memory that it uses.

Work is recorded once and replayed ever after, without Python and without launching its kernels one
by one. A replay repeats the same kernels on the same addresses with the same numbers of the host;
only what lies at these addresses may change.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, cuda

WARM_UPS = 2
"""Runs before recording, in which kernels are chosen, compiled and given their workspaces."""
MOST_GRAPHS = 256
"""Of a lane, at a time; the least recently used leave. Each holds its kernels' arguments, about a
MiB; systems that take turns have some four each, and as many again for every further bucket."""

Work = Callable[[], None]


class Lane:
    """Everything here runs one after the other; several lanes run side by side.

    That is why all graphs of a lane may use the same memory for what they do not keep.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, cuda.Stream(device)
        self._pool = cuda.graph_pool_handle()
        self._graphs: dict[Hashable, cuda.CUDAGraph] = {}  # the least recently used first

    def begin(self) -> None:
        """Come after what the caller has queued so far."""
        self.stream.wait_stream(cuda.current_stream(self.device))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While the caller queues copies of what is here: after all of it, before what comes."""
        caller = cuda.current_stream(self.device)
        caller.wait_stream(self.stream)
        yield
        self.stream.wait_stream(caller)  # who comes next may be another caller

    def run(self, key: Hashable, work: Work) -> tuple[cuda.Event, bool]:
        """Replay what is recorded under this key, recording it first if need be.

        Args:
            work: reads and writes tensors that live on, and repeats itself without harm; waits for
                nothing and asks the host for nothing that may change.

        Returns:
            What to wait for, and whether this was the first time.

        """
        graph = self._graphs.pop(key, None)
        new = graph is None
        if graph is None:
            graph = self._record(work)
        self._graphs[key] = graph
        event = cuda.Event()
        with cuda.stream(self.stream):
            graph.replay()
            event.record(self.stream)
        return event, new

    def write(self, target: Tensor, values: Tensor) -> None:
        """Copy values of the caller here, before what runs next."""
        with cuda.stream(self.stream):
            target.copy_(values, non_blocking=True)
        if values.is_cuda:
            values.record_stream(self.stream)

    def forget(self, of: Hashable) -> None:
        """Let go of all whose key begins with this."""
        self.stream.synchronize()  # what runs may not be let go
        for key in [key for key in self._graphs if isinstance(key, tuple) and key[0] == of]:
            del self._graphs[key]

    def close(self) -> None:
        """Let go of all; keys may refer to their owners, and these to the lane."""
        self.stream.synchronize()
        self._graphs.clear()

    def _record(self, work: Work) -> cuda.CUDAGraph:
        with cuda.stream(self.stream):
            for _ in range(WARM_UPS):
                work()
        self.stream.synchronize()
        if len(self._graphs) >= MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        graph = cuda.CUDAGraph()
        # Only calls of this thread may disturb: a loader's may not.
        # Where recording fails PyTorch 2.11 leaves its stream the current one: hence the outer one.
        with (
            cuda.stream(self.stream),
            cuda.graph(graph, self._pool, self.stream, capture_error_mode="thread_local"),
        ):
            work()
        return graph
