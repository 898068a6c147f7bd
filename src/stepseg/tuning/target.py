"""What a user can live with: one key of a command, with its number."""

from collections.abc import Mapping, Sequence
from typing import Any

FROM_ZERO = ("max_drop",)
"""Targets of which 0 makes sense."""


def target_of(values: Mapping[str, Any], targets: Sequence[str]) -> tuple[str, float]:
    """The one target, with its number.

    Args:
        values: of a command.
        targets: its keys that are targets.

    Raises:
        ValueError: none, several, or a number that cannot be.

    """
    given = {key: values[key] for key in targets if values[key] is not None}
    if len(given) != 1:
        said = ", ".join(f"{k}={v}" for k, v in given.items()) or "none is given"
        raise ValueError(f"give exactly one target of {', '.join(targets)}: {said}")
    [(key, number)] = given.items()
    zero = key in FROM_ZERO
    if (
        isinstance(number, bool)
        or not isinstance(number, int | float)
        or number < 0
        or (number == 0 and not zero)
    ):
        raise ValueError(f"{key}={number!r}: a number {'from 0 on' if zero else 'above 0'}")
    return key, float(number)
