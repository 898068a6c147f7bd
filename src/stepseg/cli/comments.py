"""What the comments of a YAML file say about its keys, for `--help`: YAML itself forgets them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Comments:
    """The comments of one file."""

    header: list[str] = field(default_factory=list)
    """The lines before the first key, without Hydra's ``@package``."""
    keys: dict[str, str] = field(default_factory=dict)
    """By dotted key what stands behind it on its line."""
    groups: dict[str, str] = field(default_factory=dict)
    """By config group what stands behind its entry in the defaults list."""


def read_comments(file: Path) -> Comments:
    """The comments of a file."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = Comments(_header(lines))
    node = yaml.compose(text, Loader=_LOADER)
    if isinstance(node, yaml.MappingNode):
        for path, key, value in _entries(node):
            if path == "defaults" and isinstance(value, yaml.SequenceNode):
                found.groups.update(_groups(value, lines))
            elif comment := _behind(key, value, lines):
                found.keys[path] = comment
    return found


def _header(lines: list[str]) -> list[str]:
    header = []
    for line in lines:
        if not line.startswith("#"):
            break
        header.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return [line for line in header if not line.startswith("@package")]


def _entries(
    node: yaml.MappingNode, prefix: str = ""
) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        yield path, key, value
        if isinstance(value, yaml.MappingNode):
            yield from _entries(value, f"{path}.")


def _groups(defaults: yaml.SequenceNode, lines: list[str]) -> Iterator[tuple[str, str]]:
    for item in defaults.value:
        for key, value in item.value if isinstance(item, yaml.MappingNode) else ():
            if comment := _behind(key, value, lines):
                yield key.value.removeprefix("override ").lstrip("/"), comment


def _behind(key: yaml.Node, value: yaml.Node, lines: list[str]) -> str:
    """What stands behind a value, or behind a key whose value begins on the next line."""
    on_one_line = value.start_mark.line == key.start_mark.line
    mark = value.end_mark if on_one_line else key.end_mark
    rest = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
    comment = re.match(r":?\s*#\s*(.*)", rest)
    return comment[1].strip() if comment else ""
