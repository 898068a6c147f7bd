"""What would make the host wait for a GPU, seen on a CPU.

There nothing waits, but the operations that would can be seen passing by: those that read values,
or whose result has a size that depends on values. Most reach the dispatcher; `tolist`, `cpu` and
their like read the memory of a CPU tensor without it and are seen as functions.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING_OPERATORS = {
    "_local_scalar_dense",  # item, bool, int, float, index, is_nonzero, and scalars from tensors
    "nonzero",  # also where and argwhere with a condition only
    "masked_select",
    "equal",
    "allclose",
    "unique_consecutive",
    "unique_dim",
    "_unique",
    "_unique2",
    "bincount",
    "histc",
}
WAITING_FUNCTIONS = {
    Tensor.tolist,
    Tensor.cpu,
    Tensor.numpy,
    Tensor.__array__,
}


class HostSyncs(TorchDispatchMode):
    """Lists what would make the host wait, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.functions = _Functions(self.seen)

    def __enter__(self) -> "HostSyncs":
        self.functions.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.functions.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING_OPERATORS or self._size_depends_on_values(name, args, kwargs or {}):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _size_depends_on_values(name: str, args: tuple, kwargs: dict[str, Any]) -> bool:
        if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
            return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        by_numbers = len(args) > 1 and not isinstance(args[1], Tensor)
        return name == "repeat_interleave" and kwargs.get("output_size") is None and not by_numbers


class _Functions(TorchFunctionMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        to_host = func is Tensor.to and any(
            str(value) == "cpu" for value in (*args[1:], *(kwargs or {}).values())
        )
        # From pageable memory PyTorch waits for the stream, too: `upload` pins it.
        from_host = func in (torch.tensor, torch.as_tensor) and (kwargs or {}).get("device")
        from_host = from_host or func is Tensor.new_tensor
        if func in WAITING_FUNCTIONS or to_host or from_host:
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))
