"""YAML that others wrote, as plain values: no tags, no aliases, no depths, each key once."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2**20
MAX_DEPTH = 16


def read_yaml(path: Path) -> Any:
    """The values in a file.

    Raises:
        ValueError: not YAML, or YAML that says more than it holds; names the file and the line.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes: no file that people wrote")
    try:
        return yaml.load(content, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: dates and numbers beyond reason
        raise ValueError(f"{path} is not valid YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which makes objects of no other kind, within limits."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            # A few of them, one within the other, stand for any number of values.
            self._refuse(event, f"write out what *{event.anchor} stands for")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._refuse(event, f"more than {MAX_DEPTH} levels within one another")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        values = super().construct_mapping(node, deep=deep)
        if len(values) < len(node.value):
            self._refuse(node, f"a key stands there twice; they are {list(values)[:20]}")
        return values

    def _refuse(self, place: Any, reason: str) -> None:
        raise yaml.MarkedYAMLError(problem=reason, problem_mark=place.start_mark)
