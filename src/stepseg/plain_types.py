"""Check keys and values of a configuration against a dataclass and its annotations.

For YAML, typed by people, and for files, which may hold anything. Covers what the
configurations of this project use: numbers, words, optional values, tuples of one type, literals
and nested dataclasses.
"""

import difflib
import math
import types
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")

LARGEST = 2**31 - 1
"""Beyond this a count is a mistake or an attack; seeds fit as well."""


def from_values(kind: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """Make a dataclass from plain values; lists become tuples.

    Args:
        kind: the dataclass.
        values: by name of the field.
        where: what the user calls this part, such as ``optim``.

    Raises:
        ValueError: a key unknown or missing, or a value of another type; names it.

    """
    known = fields(kind)  # type: ignore[arg-type]
    needed = [f.name for f in known if f.default is f.default_factory is MISSING]
    check_keys(where, values, [f.name for f in known], needed)
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    hints = get_type_hints(kind)
    for name, value in tuples.items():
        _check_value(f"{where}.{name}" if where else name, value, hints[name])
    return kind(**tuples)


def check_keys(
    where: str, given: Iterable[Any], known: Iterable[str], needed: Iterable[str] = ()
) -> None:
    """Refuse keys that are not known, with the nearest one, and the lack of a needed one."""
    known, given, prefix = sorted(known), list(given), f"{where}." if where else ""
    for key in given:
        if key not in known:
            raise ValueError(f"unknown key {prefix}{key}{nearest(key, known)}")
    for key in needed:
        if key not in given:
            raise ValueError(f"{prefix}{key} is missing: it has no default")


MANY = 40
"""Of more names than this a message lists those of the first level only."""


def nearest(word: object, known: Iterable[str]) -> str:
    """What a user may have meant, or else all that is known, as the end of a message."""
    known = list(known)
    if not known:
        return ""
    shown = known if len(known) <= MANY else [name for name in known if "." not in str(name)]
    return f"; {_did_you_mean(word, known) or 'known: ' + ', '.join(shown)}"


def choices(word: object, known: Iterable[str]) -> str:
    """What a user may have meant, and all that is known: for lists that are short."""
    known = list(known)
    return f"{_did_you_mean(word, known)} choose one of {', '.join(known)}".lstrip()


def _did_you_mean(word: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word), known, 1)
    return f"did you mean {near[0]!r}?" if near else ""


def flat(values: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Nested mappings as one, with keys such as ``optim.lr``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{key}{separator}{k}": v for k, v in flat(value, separator).items()}
        else:
            found[key] = value
    return found


def is_below(key: str, keys: Iterable[str]) -> bool:
    """Whether a dotted key is one of these, or lies below one."""
    return any(key == one or key.startswith(f"{one}.") for one in keys)


def is_whole(value: Any) -> bool:
    """Whether this is a whole number; True and False are none, though Python counts with them."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_count(value: Any, most: int, what: str) -> None:
    """Refuse what is endless when it is written out: the lists of a pickle may hold one another.

    Raises:
        ValueError: `what` has more than `most` values.

    """
    waiting, count = [value], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            inner: Collection[Any] = value.values()
        else:
            inner = value if isinstance(value, list | tuple | set) else ()
        count += len(inner)
        if count > most:
            raise ValueError(f"{what} has more than {most} values")
        waiting += inner


def check_types(config: Any, where: str = "") -> None:
    """Refuse values of a dataclass that are not what its annotations say.

    Raises:
        ValueError: names the field, the value's type and the expected one.

    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        name = f"{where}.{field.name}" if where else field.name
        value = getattr(config, field.name)
        _check_value(name, value, hints[field.name])
        if is_dataclass(value):
            check_types(value, name)


def _check_value(name: str, value: Any, hint: Any) -> None:
    if not _matches(value, hint):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        expected = getattr(hint, "__name__", None) or str(hint)
        raise ValueError(f"{name} is {shown}, expected {expected}")


def _matches(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_matches(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        item = arguments[0]
        is_tuple = isinstance(value, tuple)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return is_tuple and all(_matches(x, item) for x in value)
        return is_tuple and len(value) == len(arguments) and all(map(_matches, value, arguments))
    if isinstance(value, bool):
        return hint is bool
    if isinstance(value, int):
        return hint in (int, float) and abs(value) <= LARGEST
    if isinstance(value, float):
        return hint is float and math.isfinite(value)
    return isinstance(value, hint)
