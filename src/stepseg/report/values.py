"""Careful access to plain values out of a `result.json`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def number(values: Mapping[str, Any], key: str) -> float | None:
    """A finite number; None where there is none."""
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r}, not a number")
    return float(value) if math.isfinite(value) else None


def is_number(values: Mapping[str, Any], key: str) -> bool:
    """Whether there is one."""
    return isinstance(values.get(key), int | float)


def numbers(values: Mapping[str, Any], key: str) -> list[float]:
    """The finite numbers of a list."""
    items = values.get(key) or []
    if not isinstance(items, list):
        raise ValueError(f"{key} is {items!r}, not a list")
    return [n for i in range(len(items)) if (n := number({key: items[i]}, key)) is not None]


def plain(value: Any) -> Any:
    """A value that can be hashed."""
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
    return value


def size_words(size: Any) -> str | None:
    """``512`` or ``480 x 360``, height first."""
    if isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2:
        return str(size[0]) if size[0] == size[1] else f"{size[0]} x {size[1]}"
    return None if size is None else str(size)
