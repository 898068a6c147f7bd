"""Secrets are used and never recorded: what is written down passes through here.

Open to all layers. A value is a secret by its key (`api_key`, `token`, ...), by its place in an
address (``https://user:password@host``), or because a variable of the environment with such a name
holds it. References to the environment, ``${oc.env:NAME}``, tell nothing and stay.
"""

import os
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

MASK = "***"
SECRET = {
    "token", "secret", "secrets", "password", "passwd", "passphrase", "credential", "credentials",
    "apikey", "api key", "access key", "private key", "secret key", "auth key",
}  # fmt: skip
"""Words of a key, or two of them in a row, that make its value a secret; `tokens` are none."""
SHORTEST = 8
"""Characters of a variable that is looked for in texts; shorter ones are words like any other."""

_REFERENCE = re.compile(r"\$\{[\w.]+(:\w+)?\}")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_PAIR = re.compile(
    r"""(?P<lead>)(?P<key>[\w.-]+)(?P<sep>["']?\s*[=:]\s*)"""
    r"""(?P<value>\$\{[^}]*\}|"[^"]*"|'[^']*'|[^\s,}\])"'{\[]+)"""
)
_OVERRIDE = re.compile(r"(?m)^(?P<lead>[-+~\s]*)(?P<key>[\w./@-]+)(?P<sep>=)(?P<value>.+)$")
_LOGIN = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)")


def is_secret(key: str) -> bool:
    """Whether a key's value is to be kept, by the words of its last part."""
    words = [word.lower() for word in _WORD.findall(key.rpartition(".")[2])]
    pairs = [" ".join(pair) for pair in pairwise(words)]
    return not SECRET.isdisjoint([*words, *pairs])


def masked(values: Any, *, secret: bool = False) -> Any:
    """Plain nested values without secrets; `secret`: the key above them is one."""
    if isinstance(values, Mapping):
        return {k: masked(v, secret=secret or is_secret(str(k))) for k, v in values.items()}
    if isinstance(values, list | tuple):
        return [masked(item, secret=secret) for item in values]
    if isinstance(values, str):
        hidden = secret and values and not _REFERENCE.fullmatch(values)
        return MASK if hidden else masked_text(values)
    hidden = secret and isinstance(values, int | float) and not isinstance(values, bool)
    return MASK if hidden else values


def masked_text(text: str) -> str:
    """A text without secrets: overrides, command lines, messages, files of YAML."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and is_secret(name):
            text = text.replace(value, MASK)
    for pattern in (_OVERRIDE, _PAIR):
        text = pattern.sub(_masked_pair, text)
    return _LOGIN.sub(MASK, text)


def _masked_pair(match: re.Match[str]) -> str:
    value = match["value"]
    tells_nothing = _REFERENCE.fullmatch(value) or value in ("null", "true", "false")
    if tells_nothing or not is_secret(match["key"]):
        return match[0]
    return f"{match['lead']}{match['key']}{match['sep']}{MASK}"
