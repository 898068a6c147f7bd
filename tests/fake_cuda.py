"""A stand-in for what `torch.cuda` offers to runtimes: graphs, streams and events, on a CPU.

A graph repeats the operations that it saw, with the numbers and on the addresses that it saw, and
without Python: what was read from the host while it was recorded is as it was then. Whatever would
make the host wait cannot be recorded. Streams run late: what was queued happens when somebody waits
for it. And what a graph computes is gone after its run, but for what lies elsewhere.

Attention and comparison of images of different lengths know these, as kernels do, from the device,
and of the host's numbers no more than how many images there are and how long the longest may be.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from host_syncs import HostSyncs
from stepseg.ops import attention
from stepseg.packed import Segments
from stepseg.packed.segments import constant


class Stream:
    """Work that waits to be asked for."""

    def __init__(self, device: Any = None) -> None:
        self.queue: list[Callable[[], object]] = []

    def synchronize(self) -> None:
        queue, self.queue = self.queue, []
        for work in queue:
            work()

    def wait_stream(self, other: "Stream") -> None:
        other.synchronize()


class Event:
    """A place in a queue."""

    def record(self, stream: Stream) -> None:
        self.stream = stream

    def synchronize(self) -> None:
        self.stream.synchronize()


class Graph:
    """A tape."""

    made = 0
    broken: Callable[[list], None] = staticmethod(lambda tape: None)
    """Spoils what was recorded."""

    def __init__(self) -> None:
        self.tape: list[tuple[Any, tuple, dict, list[Tensor], list[Tensor]]] = []
        Graph.made += 1

    def replay(self) -> None:
        CURRENT[-1].queue.append(self._run)

    def _run(self) -> None:
        with torch.inference_mode():
            for operator, args, kwargs, results, _ in self.tape:
                again = tensors_of(operator(*args, **kwargs))
                for result, new in zip(results, again, strict=True):
                    if new.data_ptr() != result.data_ptr():
                        result.copy_(new)
            for *_, own in self.tape:
                for tensor in own:
                    poison(tensor)


class Recording(TorchDispatchMode):
    """Writes a tape, and knows which results are memory of the graph's own."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {storage(tensor) for tensor in tensors_of((args, kwargs))}
        results = tensors_of(out)
        own = [tensor for tensor in results if storage(tensor) not in given]
        self.graph.tape.append((func, args, kwargs or {}, results, own))
        return out


CURRENT = [Stream()]


@contextmanager
def on(stream: Stream) -> Iterator[None]:
    CURRENT.append(stream)
    yield
    CURRENT.pop()


@contextmanager
def recorded(graph: Graph, pool: Any, stream: Stream, capture_error_mode: str) -> Iterator[None]:
    assert not stream.queue, "what is recorded reads what the stream has not yet written"
    with on(stream), HostSyncs() as syncs, Recording(graph):
        yield
    assert not syncs.seen, f"cannot be recorded: {syncs.seen}"
    for *_, own in graph.tape:  # recording computes nothing
        for tensor in own:
            poison(tensor)
    Graph.broken(graph.tape)


CUDA = SimpleNamespace(
    Stream=Stream,
    Event=Event,
    CUDAGraph=Graph,
    graph=recorded,
    graph_pool_handle=object,
    stream=on,
    current_stream=lambda device: CURRENT[-1],
)


def install(monkeypatch: Any) -> None:
    """Let runtimes find this in place of `torch.cuda`, and models these kernels."""
    monkeypatch.setattr("stepseg.runtime.lane.cuda", CUDA)
    for module in ("packed.segments", "packed.layout"):
        monkeypatch.setattr(f"stepseg.{module}.upload", upload)
    constant.cache_clear()
    monkeypatch.setenv("STEPSEG_ATTENTION", "masked")
    monkeypatch.setitem(attention._IMPLEMENTATIONS, "masked", attend)
    monkeypatch.setattr("stepseg.heads.atm.segment_scores", compare)
    monkeypatch.setattr(Graph, "made", 0)
    monkeypatch.setattr("stepseg.runtime.lane.WARM_UPS", 1)


def upload(values: Any, dtype: torch.dtype, device: Any) -> Tensor:
    """What is uploaded while a graph is recorded is read from the host in every replay."""
    mode = _get_current_dispatch_mode()
    assert not isinstance(mode, Recording), "the host's memory may be somebody else's by then"
    return torch.tensor(values, dtype=dtype, device=device)


def attend(q: Tensor, k: Tensor, v: Tensor, q_segments: Segments, k_segments: Segments) -> Tensor:
    """Attention within images, whose rows others cannot touch, be they NaN; reads no lengths."""
    (queries, reached), (keys, _) = owners(q_segments, len(q)), owners(k_segments, len(k))
    mask_TS = queries[:, None] == keys
    broken_S = (k.isnan() | v.isnan()).flatten(1).any(1)
    scores = torch.einsum("tnk,snk->nts", q, k.nan_to_num()) / q.shape[2] ** 0.5
    weights = scores.masked_fill(~mask_TS, -math.inf).softmax(2)
    weights = torch.where(mask_TS.any(1)[:, None], weights, 0)
    out = torch.einsum("nts,snk->tnk", weights, v.nan_to_num())
    # No kernel writes rows that a launch for the longest image does not reach.
    lost_T = (mask_TS & broken_S).any(1) | ~reached
    return torch.where(lost_T[:, None, None], math.nan, out)


def compare(k_TD: Tensor, q_QD: Tensor, segments: Segments) -> Tensor:
    """`segment_scores` by the images that the device knows."""
    everywhere_TBC = (k_TD @ q_QD.T).unflatten(1, (segments.num_images, -1))
    return everywhere_TBC[torch.arange(len(k_TD)), owners(segments, len(k_TD))[0]]


def owners(segments: Segments, rows: int) -> tuple[Tensor, Tensor]:
    """The image of every row, and whether a launch for the longest image reaches it."""
    numbers = torch.arange(rows, dtype=torch.int32)
    image_ids = torch.searchsorted(segments.cu_seqlens, numbers, right=True) - 1
    return image_ids, numbers - segments.cu_seqlens[image_ids] < segments.max_length


def tensors_of(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def poison(tensor: Tensor) -> None:
    """As memory that is somebody else's by now; indices stay legal, or a CPU would complain."""
    if tensor.is_floating_point():
        tensor.fill_(math.nan)
    else:
        tensor.zero_()
