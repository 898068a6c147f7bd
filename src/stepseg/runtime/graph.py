"""Functions over packed tokens as compiled graphs, for any images and any number of tokens.

For inference. A graph is made once and serves all batches: the number of rows is a symbol in it,
and what has to know the images is an opaque operator, to which they come as data. Everything
between the operators (LayerNorm, residuals, activations, products) is the compiler's.

On CPUs the weights are laid out for the processor's kernels at compile time, where PyTorch's linear
layers repack them in every call.

Not here: training (the operators have no derivative) and CUDA graphs.

Letters: T and S packed rows, Q packed queries, N heads, K channels of a head, D channels, B images.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch
import torch._dynamo.config as dynamo_config
import torch._inductor.config as inductor_config
import torch.fx.experimental._config as shapes_config
from torch import Tensor, nn

from stepseg.ops.attention import varlen_attention
from stepseg.ops.segment import segment_scores
from stepseg.packed import Segments

Backend = str | Callable[..., Any]
"""Of `torch.compile`."""

MOST_GRAPHS = 256
"""Of one definition in a process."""


class Graph:
    """A function of tensors as one graph, compiled at the first call; weights must not change.

    Args:
        function: of tensors only; sizes of 0 and 1 are constants to the compiler, keep them out.
        dynamic: whether sizes are symbols, so that any will do.

    """

    def __init__(
        self, function: Callable[..., Any], backend: Backend = "inductor", *, dynamic: bool = True
    ) -> None:
        # Functions of one definition count as recompilations of each other, and the compiler gives
        # up after 8: every stage and head of a model wants its graph.
        dynamo_config.recompile_limit = max(dynamo_config.recompile_limit, MOST_GRAPHS)
        # Or a number of tokens that happens to be the model's width counts as the width.
        shapes_config.use_duck_shape = False
        self._call = torch.compile(function, dynamic=dynamic, fullgraph=True, backend=backend)

    def __call__(self, *tensors: Tensor) -> Any:
        if tensors[0].device.type != "cpu":
            return self._call(*tensors)
        with inductor_config.patch(freezing=True):  # tens of microseconds: not on GPUs
            return self._call(*tensors)


Module = TypeVar("Module", bound=nn.Module)


class Compiled(ABC, Generic[Module]):
    """Stands in for a method of one module by graphs made at first use; a copy makes its own.

    Args:
        module: its weights must not change any more.
        backend: who compiles.

    """

    dynamic = True
    """Whether graphs hold for any sizes."""

    def __init__(self, module: Module, backend: Backend = "inductor") -> None:
        self.module, self.backend = module, backend
        self._graphs: dict[Hashable, Graph] = {}

    @abstractmethod
    def function(self, key: Any) -> Callable[..., Any]:
        """The function of tensors whose graph has this key."""

    def graph(self, key: Hashable = None) -> Graph:
        """The graph of a key, made if need be."""
        if key not in self._graphs:
            self._graphs[key] = Graph(self.function(key), self.backend, dynamic=self.dynamic)
        return self._graphs[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_graphs": {}}  # graphs hold the modules of the original


def as_tensors(segments: Segments) -> tuple[Tensor, Tensor]:
    """Segments as the operators take them: `cu_seqlens` on the device and, int64, on the host.

    The copy on the host tells the operator the images without waiting for the device.
    """
    return segments.cu_seqlens, segments.host_offsets()


@torch.library.custom_op("stepseg::attend", mutates_args=())
def attend(
    q_TNK: Tensor,
    k_SNK: Tensor,
    v_SNK: Tensor,
    q_cu_seqlens: Tensor,
    q_offsets: Tensor,
    k_cu_seqlens: Tensor,
    k_offsets: Tensor,
) -> Tensor:
    """`varlen_attention` with segments from `as_tensors`, ``[T, N, K]``."""
    queries = Segments.from_offsets(q_cu_seqlens, q_offsets)
    keys = Segments.from_offsets(k_cu_seqlens, k_offsets)
    return varlen_attention(q_TNK, k_SNK, v_SNK, queries, keys).contiguous()


@torch.library.custom_op("stepseg::compare", mutates_args=())
def compare(k_TD: Tensor, q_QD: Tensor, cu_seqlens: Tensor, offsets: Tensor) -> Tensor:
    """`segment_scores` with segments from `as_tensors`, ``[T, Q / B]``."""
    return segment_scores(k_TD, q_QD, Segments.from_offsets(cu_seqlens, offsets)).contiguous()


@attend.register_fake
def _(q_TNK: Tensor, k_SNK: Tensor, v_SNK: Tensor, *segments: Tensor) -> Tensor:
    return v_SNK.new_empty(q_TNK.shape)


@compare.register_fake
def _(k_TD: Tensor, q_QD: Tensor, cu_seqlens: Tensor, offsets: Tensor) -> Tensor:
    images = offsets.shape[0] - 1  # not `len`: it would make a constant of the size
    return k_TD.new_empty(k_TD.shape[0], q_QD.shape[0] // images)
