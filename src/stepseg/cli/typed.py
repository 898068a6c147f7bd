"""What the user typed, by the keys that it is about; needs no PyTorch."""

from collections.abc import Iterable, Sequence

from stepseg.plain_types import is_below


def key_of(override: str) -> str:
    """The key of ``+reduction.exit=1``, and of ``~reduction.exit``: ``reduction.exit``."""
    return override.lstrip("+~").partition("=")[0]


def typed_of(keys: Iterable[str], overrides: Sequence[str]) -> list[str]:
    """Overrides of these keys, and of what is below them."""
    wanted = list(keys)
    return [typed for typed in overrides if is_below(key_of(typed), wanted)]


def refuse_typed(keys: Iterable[str], overrides: Sequence[str], request: str) -> None:
    """Refuse options that would do nothing.

    Args:
        keys: that mean nothing here.
        overrides: what the user typed.
        request: what was asked for, in words.

    Raises:
        ValueError: one was typed; names it.

    """
    for typed in typed_of(keys, overrides):
        raise ValueError(f"{typed} says nothing of {request}: drop it")
