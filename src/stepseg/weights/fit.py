"""Loading weights strictly: every key and shape accounted for, or one message that names them."""

from collections.abc import Mapping

from torch import Tensor


def check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], problem: str) -> None:
    """Compare the weights that a module has with those that are to be loaded.

    Args:
        problem: how the message begins, with the source named.

    Raises:
        ValueError: a key is missing, unknown, or has another shape.

    """
    found = [f"missing {key}" for key in own if key not in state]
    found += [f"unknown {key}" for key in state if key not in own]
    found += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise ValueError(f"{problem}: {'; '.join(found[:5])}{more}")
