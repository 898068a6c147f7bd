"""Check the values of a configuration against its annotations: for what comes out of a file.

YAML is typed by people, who see an error at once; a file may hold anything. Covers what the
configurations of this project use: numbers, words, optional values, tuples of one type, literals
and nested dataclasses.
"""

import types
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST = 2**31 - 1
"""Beyond this a count is a mistake or an attack; seeds fit as well."""


def check_types(config: Any, where: str = "") -> None:
    """Refuse values of a dataclass that are not what its annotations say.

    Raises:
        ValueError: names the field, the value's type and the expected one.

    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        name = f"{where}.{field.name}" if where else field.name
        value = getattr(config, field.name)
        if not _matches(value, hints[field.name]):
            shown = repr(value)
            shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
            expected = getattr(hints[field.name], "__name__", None) or str(hints[field.name])
            raise ValueError(f"{name} is {shown}, expected {expected}")
        if is_dataclass(value):
            check_types(value, name)


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
    return isinstance(value, hint)
