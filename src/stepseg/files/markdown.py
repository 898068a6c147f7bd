"""Text, code and tables as Markdown in which nothing that was typed becomes markup."""

import re
from collections.abc import Sequence

# Within a word an underscore is only an underscore, and a bracket needs a second one to be a link.
_MARKUP = re.compile(r"[\\|*`~$]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])")


def escape(text: str) -> str:
    """Text on one line that readers see as it stands."""
    text = _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
    # Entities: some readers know no other way.
    return re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;")


def code(text: str) -> str:
    """Within a line, in letters of one width."""
    text = " ".join(text.split())
    fence = "`" * (_longest_run(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def code_block(text: str, language: str = "") -> str:
    """Lines of code."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(rows: Sequence[Sequence[str]], numeric: Sequence[bool] | None = None) -> str:
    """A table of plain text; the first row is its head."""
    head, *body = ([escape(cell) for cell in row] for row in rows)
    rule = ["---:" if right else "---" for right in numeric or [False] * len(head)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
