"""Rows of the GPU script as tables, of what was measured and nothing else.

    python benchmarks/gpu/render.py rows.jsonl                       # on the screen, as Markdown
    python benchmarks/gpu/render.py rows.jsonl --into experiments/speed

Into a folder: `gpu.jsonl` gets the rows, and the README's part between ``<!-- gpu -->`` and
``<!-- /gpu -->`` the tables. Rows of a toy run are refused there.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FOLDERS = [str(Path(__file__).parents[n]) for n in (1, 2)]
sys.path[:0] = [FOLDERS[0], f"{FOLDERS[1]}/src"]

from gpu.setting import Row, read_rows  # noqa: E402

MARKED = re.compile(r"(<!-- gpu -->\n).*?(<!-- /gpu -->)", re.DOTALL)
CHECKS = ("agreement", "runtimes_agree", "attention", "host_syncs", "static", "own_tests")
COMMON = {
    "section", "commit", "device", "toy", "python", "torch", "cuda", "cudnn", "triton", "timm",
    "time", "where", "longest", "last_lines", "gmacs_by_part", "attention",
}  # fmt: skip
"""Not in tables of checks and pieces: what all rows have, and what is long."""


def render(rows: Sequence[Row]) -> str:
    """Markdown of all rows."""
    if not rows:
        return "Nothing has run on a GPU yet.\n"
    text = [_where(rows)]
    systems = [row for row in rows if "latency_ms_p50" in row and "runtime" in row]
    flying = [row for row in rows if "in_flight" in row]
    for px, batch, counts in _kinds(systems, "px", "batch", "counts"):
        chosen = [r for r in systems if (r["px"], r["batch"], r["counts"]) == (px, batch, counts)]
        text.append(
            f"### {px} x {px}, batch {batch}, {counts} counts\n\n{_systems(chosen, flying)}"
        )
    for title, names in (("Checks", CHECKS), ("Pieces", None)):
        others = [row for row in rows if not (set(row) & {"runtime", "failed", "skipped"})]
        sections = names or [n for (n,) in _kinds(others, "section") if n not in CHECKS]
        tables = [_plain(section, others) for section in sections]
        if any(tables):
            text.append(f"### {title}\n\n" + "\n".join(filter(None, tables)))
    left = [
        f"* {row['section']}: {row.get('failed') or row.get('skipped')}"
        for row in rows
        if row.keys() & {"failed", "skipped"}
    ]
    left += [
        f"* {row['section']}, {row['system']}: {told}"
        for row in (*systems, *flying)
        for told in row.get("warnings", ())
    ]
    if left:
        text.append("### Not measured, or not as asked for\n\n" + "\n".join(left) + "\n")
    return "\n".join(text)


def _where(rows: Sequence[Row]) -> str:
    found = _kinds(rows, "device", "commit", "torch", "cuda", "cudnn", "triton")
    return "".join(
        f"{device}, commit {commit}, torch {torch}, CUDA {cuda}, cuDNN {cudnn}, Triton {triton}.\n"
        for device, commit, torch, cuda, cudnn, triton in found
    )


def _same(one: Row, other: Row) -> bool:
    """Whether two rows are of one system under the same conditions."""
    keys = ("section", "system", "backbone", "px", "runtime", "batch", "counts", "reverse")
    return all(one.get(key) == other.get(key) for key in keys)


def _systems(rows: Sequence[Row], flying: Sequence[Row]) -> str:
    columns = ["backbone", "runtime", "system", "tokens", "GMACs", "ms p50", "ms p95", "img/s"]
    columns += ["in flight", "MiB", "of peak", "speed-up", "realised"]
    lines = []
    for row in rows:
        rates = {r["in_flight"]: r["images_per_s"] for r in flying if _same(r, row)}
        in_flight = ", ".join(f"{number}: {rate:.1f}" for number, rate in rates.items())
        tokens = ", ".join(f"{count:.0f}" for count in row["tokens_per_stage"])
        name = row["system"] + (" (in reverse)" if row.get("reverse") else "")
        name += " (not as asked for)" if row.get("warnings") else ""
        numbers = ("gmacs", "latency_ms_p50", "latency_ms_p95", "images_per_s")
        figures = [_show(row[key]) for key in numbers]
        rest = [_show(row.get(k)) for k in ("peak_memory_mb", "mfu", "speedup", "realisation")]
        lines.append([row["backbone"], row["runtime"], name, tokens, *figures, in_flight, *rest])
    return _table(columns, lines)


def _plain(section: str, rows: Sequence[Row]) -> str:
    """All figures of a section."""
    own = [row for row in rows if row["section"] == section]
    columns = [c for c in dict.fromkeys(key for row in own for key in row) if c not in COMMON]
    if not own:
        return ""
    lines = [[_show(row.get(column)) for column in columns] for row in own]
    return f"**{section}**\n\n{_table(columns, lines)}"


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [columns, ["---"] * len(columns), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _kinds(rows: Iterable[Row], *keys: str) -> list[tuple[Any, ...]]:
    """Different values, in the order of the rows."""
    return list(dict.fromkeys(tuple(row.get(key) for key in keys) for row in rows))


def _show(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_show, value)) or "none"
    if value is None or isinstance(value, dict):
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "/")


def main(arguments: list[str] | None = None) -> int:
    """Print tables, or write them into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("rows", type=Path, help="what `run_all.py` wrote")
    parser.add_argument("--into", type=Path, help="folder of an experiment with a marked README")
    options = parser.parse_args(arguments)
    if not options.rows.is_file():
        parser.error(f"{options.rows} is not a file")
    rows = list(read_rows(options.rows))
    if options.into is None:
        print(render(rows))
        return 0
    page = options.into / "README.md"
    if any(row["toy"] for row in rows):
        parser.error(f"{options.rows} has rows of a toy run, which are no measurements")
    if not page.is_file() or not MARKED.search(page.read_text()):
        parser.error(f"{page} has no part between <!-- gpu --> and <!-- /gpu -->")
    text = MARKED.sub(lambda match: f"{match[1]}{render(rows)}{match[2]}", page.read_text())
    page.write_text(text)
    if options.rows.resolve() != (options.into / "gpu.jsonl").resolve():
        shutil.copyfile(options.rows, options.into / "gpu.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
