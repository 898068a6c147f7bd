"""A faster way to the same numbers, taken once it has proved itself on this device.

What the developers could not run may raise on a user's device, or be wrong there. So its first use
is compared with the plain way, on the user's own numbers, and it is given up with one warning that
says why. Untested hardware costs time then, and never gives a wrong result.
"""

import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch


class FirstUse:
    """Calls the fast way where it agreed with the plain one.

    Args:
        name: of the fast way, for the warning.
        fast: may raise or be wrong where it has never run.
        plain: is right; takes the same arguments.
        differ: how two results differ, in words; None: they agree. May wait for the device.

    """

    def __init__(
        self,
        name: str,
        fast: Callable[..., Any],
        plain: Callable[..., Any],
        differ: Callable[[Any, Any], str | None],
    ) -> None:
        self.name, self.fast, self.plain, self.differ = name, fast, plain, differ
        self.verdicts: dict[Hashable, bool] = {}
        """By kind of arguments: whether the fast way is taken."""

    def __call__(self, kind: Hashable, *arguments: Any) -> Any:
        """The result, for arguments of a kind (device, type, ...), for which one verdict holds."""
        verdict = self.verdicts.get(kind)
        if verdict is None:
            return self._try(kind, arguments)
        if verdict:
            try:
                return self.fast(*arguments)
            except Exception as error:
                self._give_up(kind, error)
        return self.plain(*arguments)

    def _try(self, kind: Hashable, arguments: tuple[Any, ...]) -> Any:
        expected = self.plain(*arguments)
        if is_capturing():
            return expected  # nothing may wait now, and a graph keeps what it was captured with
        try:
            difference = self.differ(self.fast(*arguments), expected)
            self.verdicts[kind] = difference is None
            if difference is not None:
                self._warn(kind, difference)
        except Exception as error:
            self._give_up(kind, error)
        return expected

    def _give_up(self, kind: Hashable, error: Exception) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            raise error
        self.verdicts[kind] = False
        self._warn(kind, f"{type(error).__name__}: {error}".splitlines()[0])

    def _warn(self, kind: Hashable, reason: str) -> None:
        where = " ".join(map(str, kind)) if isinstance(kind, tuple) else kind
        warnings.warn(f"{self.name} is not used for {where}: {reason}", stacklevel=4)


def is_capturing() -> bool:
    """Whether what is called now goes into a CUDA graph."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def far_apart(ours: torch.Tensor, expected: torch.Tensor, tolerance: float = 0.02) -> str | None:
    """`FirstUse.differ` for tensors of features: relative to the largest expected number."""
    if ours.shape != expected.shape or ours.dtype != expected.dtype:
        return f"{tuple(ours.shape)} of {ours.dtype} instead of {tuple(expected.shape)}"
    ours, expected = ours.float(), expected.float()
    both = ours.isnan() & expected.isnan()  # what nobody reads may be anything
    apart = (ours - expected).masked_fill(both, 0).abs().max()
    error = float(apart / expected.nan_to_num().abs().max().clamp(1e-6))  # host sync: only once
    # A comparison with NaN is False.
    return None if error <= tolerance else f"it is off by {error:.2g} of the largest number"
