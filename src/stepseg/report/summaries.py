"""Rows to be compared, seeds taken together.

Rows are averaged only where everything but the seed is the same, and stand in one table only where
images, classes and protocol (accuracy), or machine and protocol (benchmark), are the same.
Rows that repeat the same seed count once: they are averaged first, so that no seed weighs double.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, mode, stdev
from typing import Any

from stepseg.report.images import special_words
from stepseg.report.rows import Row
from stepseg.report.systems import KINDS, System
from stepseg.telling import counted

SHORT = {"exit_threshold": "θ", "edge_weight": "w", "keep_per_class": "keep"}
PLAIN = ("exit_rule", "backbone", "policy", "device", "dtype")
"""Fields whose value says enough without their name."""
ALWAYS = ("backbone", "policy", "exit_threshold", "exit_rule", "device", "dtype")
"""Fields that get a column as soon as they differ at all."""
USUAL = ("policy", "device", "dtype", "commit", "versions")
"""Fields that a label mentions only where they are not as in most lines."""
HIDDEN = ("recipe",)
"""A digest of fields that are shown themselves."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds."""

    mean: float
    std: float | None
    """Sample deviation over seeds; None of one seed."""
    n: int


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of a table: a configuration over its seeds."""

    system: System
    fields: Mapping[str, Any]
    seeds: tuple[str, ...]
    figures: Mapping[str, Spread]
    tokens: tuple[float, ...]
    superpatches: Mapping[int, float]
    extremes: Mapping[str, tuple[float, float]]
    """Of an image, over all seeds."""
    parts: Mapping[str, float]
    rows: tuple[Row, ...]
    label: str = ""
    """The system, and in what else it differs from the others of its table."""

    def mean(self, figure: str) -> float | None:
        """The figure, if there is one."""
        spread = self.figures.get(figure)
        return spread.mean if spread else None


@dataclass(frozen=True, slots=True)
class Arena:
    """Lines that may be compared with each other."""

    key: Mapping[str, Any]
    """What they have in common by necessity."""
    summaries: tuple[Summary, ...]
    differing: tuple[str, ...]
    """Fields, besides the system, that tell lines apart."""

    @property
    def is_benchmark(self) -> bool:
        """Whether speed and operations were measured, and no accuracy."""
        return self.key["kind"] == "benchmark"

    @property
    def title(self) -> str:
        """What is common, in words."""
        key = self.key
        if not self.is_benchmark:
            size = key["resolution"]
            size = f"{size} x {size} px" if str(size).isdigit() else size
            words = [key["data"], f"{key['classes']} classes", counted(key["images"], "image")]
            words += [*special_words(key), *([size] if size else []), key["protocol"]]
            return ", ".join(map(str, words))
        size = str(key["resolution"])
        words = [f"{size} x {size} px" if size.isdigit() else f"{size} px"]
        words += [f"{key['classes']} classes", f"tokens: {_show_tokens(key['tokens'])}"]
        if key["clock"]:
            words += [f"batch {key['batch']}", str(key["hardware"] or "unknown machine")]
            words += [counted(key["threads"], "thread")] if key["threads"] else []
            words += [str(key["dtype"]), str(key["clock"])]
            words += [str(key["runtime"])] if key["runtime"] not in (None, "eager") else []
        else:
            words += ["counted, not timed"]
        return "Benchmark: " + ", ".join(words)

    def with_figure(self, *names: str) -> list[Summary]:
        """The lines that have all of these figures."""
        return [s for s in self.summaries if all(name in s.figures for name in names)]


def summarise(rows: Sequence[Row], ignore: Sequence[str] = ()) -> tuple[list[Arena], list[str]]:
    """Arenas of averaged lines, and what the reader should know about them.

    Args:
        rows: of any number of runs.
        ignore: fields (such as ``commit``) in which rows may differ and still be repetitions.

    Raises:
        ValueError: an ignored field is unknown, or one that makes rows incomparable.

    """
    known = {name for row in rows for name in row.fields}
    fixed = {name for row in rows for name, _ in row.arena}
    for name in ignore:
        if name in fixed or name == "system":
            raise ValueError(f"rows that differ in {name!r} are never averaged: do not ignore it")
        if name not in known:
            raise ValueError(f"unknown field {name!r} to ignore; known: {', '.join(sorted(known))}")
    grouped: dict[tuple[Any, ...], dict[frozenset[Any], list[Row]]] = {}
    for row in rows:
        fields = {k: v for k, v in row.fields.items() if v is not None and k not in ignore}
        identity = frozenset((k, v) for k, v in fields.items() if k not in HIDDEN)
        grouped.setdefault(row.arena, {}).setdefault(identity, []).append(row)
    notices: list[str] = []
    arenas = [
        _arena(dict(key), [_summary(g, ignore, notices) for g in groups.values()])
        for key, groups in grouped.items()
    ]
    arenas.sort(key=lambda arena: (arena.is_benchmark, arena.title))
    if len({dict(arena.key).get("data") for arena in arenas if not arena.is_benchmark}) > 1:
        notices.append("Several data sets: each has its own tables; nothing is averaged over them.")
    return arenas, notices


def _summary(rows: list[Row], ignore: Sequence[str], notices: list[str]) -> Summary:
    by_seed: dict[str, list[Row]] = {}
    for row in rows:
        by_seed.setdefault(row.seed, []).append(row)
    for seed, repeated in by_seed.items():
        if len(repeated) > 1:
            notices.append(_repetition(seed, repeated))
    first = rows[0]
    figures = {}
    for name in dict.fromkeys(name for row in rows for name in row.figures):
        values = [
            fmean(found)
            for repeated in by_seed.values()
            if (found := [r.figures[name] for r in repeated if name in r.figures])
        ]
        figures[name] = Spread(
            fmean(values), stdev(values) if len(values) > 1 else None, len(values)
        )
    fields = dict(first.fields)
    for name in ignore:
        seen = dict.fromkeys(str(r.fields[name]) for r in rows if r.fields.get(name) is not None)
        if name in first.fields:
            fields[name] = " / ".join(seen)
    return Summary(
        system=first.system,
        fields=fields,
        seeds=tuple(by_seed),
        figures=figures,
        tokens=_mean_tuple([r.tokens for r in rows]),
        superpatches=_mean_mapping([r.superpatches for r in rows]),
        extremes=_extremes([r.extremes for r in rows]),
        parts=_mean_mapping([r.parts for r in rows]),
        rows=tuple(rows),
    )


def _repetition(seed: str, rows: Sequence[Row]) -> str:
    paths = ", ".join(dict.fromkeys(str(row.run.path) for row in rows))
    shared = set.intersection(*(set(row.figures) for row in rows))
    differ = sorted(n for n in shared if len({round(row.figures[n], 6) for row in rows}) > 1)
    what = f"{rows[0].system}, seed {seed}, occurs {len(rows)} times ({paths})"
    if not differ:
        return f"{what} with the same figures: counted once."
    return f"{what} with other {', '.join(differ)}: averaged, counted as one seed."


def _arena(key: Mapping[str, Any], summaries: list[Summary]) -> Arena:
    summaries.sort(key=_order)
    differing = _differing(summaries, key)
    usual = {n: mode(s.fields.get(n) for s in summaries) for n in USUAL if n in differing}
    labelled = []
    for summary in summaries:
        told = [n for n in differing if n not in usual or summary.fields.get(n) != usual[n]]
        words = [_word(name, summary.fields.get(name)) for name in told]
        label = " ".join([str(summary.system), *(word for word in words if word)])
        labelled.append(replace(summary, label=label))
    return Arena(key, tuple(labelled), tuple(differing))


def _differing(summaries: Sequence[Summary], key: Mapping[str, Any]) -> list[str]:
    """The fewest fields that tell the lines apart, and those that always deserve a column."""
    names = dict.fromkeys(n for s in summaries for n in s.fields)
    candidates = [n for n in names if n not in key and n not in ("system", *HIDDEN)]
    differs = {n for n in candidates if len({s.fields.get(n) for s in summaries}) > 1}
    chosen = [n for n in ALWAYS if n in differs and _says_more(n, summaries, ["system"])]
    chosen += [n for n in ("backbone",) if n in differs and n not in chosen]
    for name in candidates:
        if name in differs and name not in chosen and _says_more(name, summaries, chosen):
            chosen.append(name)
    return chosen


def _says_more(name: str, summaries: Sequence[Summary], chosen: Sequence[str]) -> bool:
    """Whether lines alike in the chosen fields and the system differ in this one."""
    values: dict[tuple[Any, ...], set[Any]] = {}
    for summary in summaries:
        alike = (str(summary.system), *(summary.fields.get(c) for c in chosen))
        values.setdefault(alike, set()).add(summary.fields.get(name))
    return any(len(found) > 1 for found in values.values())


def _word(name: str, value: Any) -> str:
    if value is None or (name == "exit_rule" and value == "confidence"):
        return ""
    if name in PLAIN:
        return str(value)
    return f"{SHORT.get(name, name.removeprefix('train.'))}={show(value)}"


def show(value: Any) -> str:
    """A field's value in a cell."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(show(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _order(summary: Summary) -> tuple[Any, ...]:
    kind = KINDS.index(summary.system.kind)
    cost = summary.mean("gmacs") or 0.0
    return (str(summary.fields.get("backbone")), kind, summary.system.exit_blocks, -cost)


def _show_tokens(tokens: Any) -> str:
    words = {"paper": "the paper's means", "measured": "measured", None: "unknown"}
    return words[tokens] if tokens in words else show(tokens)


def _mean_tuple(values: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    longest = [v for v in values if v]
    if not longest or len({len(v) for v in longest}) > 1:
        return ()
    return tuple(fmean(items) for items in zip(*longest, strict=True))


def _mean_mapping(values: Sequence[Mapping[Any, float]]) -> dict[Any, float]:
    keys = dict.fromkeys(key for value in values for key in value)
    return {key: fmean([v[key] for v in values if key in v]) for key in keys}


def _extremes(values: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, Any]:
    shared = [name for name in values[0] if all(name in value for value in values)]
    return {n: (min(v[n][0] for v in values), max(v[n][1] for v in values)) for n in shared}
