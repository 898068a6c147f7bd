"""How the states of two sets of images become those of both.

Almost all are sums. What is the least or the greatest of an image says so by the end of its name.
"""

import torch
from torch import Tensor

Sums = dict[str, Tensor]
"""Everything counted for one reduction, by state."""
LEAST, GREATEST = "_min", "_max"


def join(name: str, ours: Tensor, theirs: Tensor) -> Tensor:
    """The state `name` of both sets."""
    if name.endswith(LEAST):
        return torch.minimum(ours, theirs)
    if name.endswith(GREATEST):
        return torch.maximum(ours, theirs)
    return ours + theirs


def join_ranks(name: str, ours: Tensor) -> Tensor:
    """The state `name` of all processes' sets; all processes call this."""
    joined = ours.clone()
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return joined
    reduce_op = torch.distributed.ReduceOp
    op = {LEAST: reduce_op.MIN, GREATEST: reduce_op.MAX}.get(name[-len(LEAST) :], reduce_op.SUM)
    torch.distributed.all_reduce(joined, op)
    return joined
