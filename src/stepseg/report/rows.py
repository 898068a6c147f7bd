"""One row per system, sweep point or benchmark line, under one set of names.

A row has fields (what was set: data, weights, reduction, machine) and figures (what came out).
Two rows may be compared where their `arena` is the same; they are repetitions where all fields but
the seed are the same (`stepseg.report.summaries`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepseg.report.fields import (
    backbone_name,
    cell_of,
    model_of,
    place_fields,
    policy_name,
    reduction_fields,
    reduction_of_entry,
    reduction_of_system,
    training_of,
    weights_of,
    without_thresholds,
)
from stepseg.report.images import corruption_seeds, image_fields, views_of
from stepseg.report.runs import Problem, Run
from stepseg.report.systems import System, system_of
from stepseg.report.values import mapping, number, numbers, plain, size_words

FIGURES = {  # ours: keys in result.json, the first that is there
    "mIoU": ("mIoU",),
    "mAcc": ("mAcc",),
    "aAcc": ("aAcc",),
    "fwIoU": ("fwIoU",),
    "boundary_IoU": ("boundary_IoU",),
    "gmacs": ("gmacs_mean", "gmacs"),
    "gmacs_std": ("gmacs_std",),
    "macs_ratio": ("macs_ratio",),
    "images_per_s": ("images_per_s",),
    "mfu": ("mfu",),
    "latency_ms_p50": ("latency_ms_p50",),
    "latency_ms_p95": ("latency_ms_p95",),
    "speedup": ("speedup",),
    "realisation": ("realisation",),
    "peak_memory_mb": ("peak_memory_mb",),
}

Tokens = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One measured system."""

    run: Run
    name: str
    """As the command called it."""
    system: System
    arena: tuple[tuple[str, Any], ...]
    """What has to be equal before rows are compared at all."""
    fields: Mapping[str, Any]
    """What was set, without the seed; values can be hashed."""
    seed: str
    figures: Mapping[str, float]
    """Finite numbers only."""
    tokens: Tokens = ()
    """Tokens of a view by stage."""
    superpatches: Mapping[int, float] = field(default_factory=dict)
    """Mean count by window side, per view."""
    extremes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Least and greatest of an image, per view: ``superpatches_2``, ``exited_1``, ..."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """GMACs by part."""


def rows_of_runs(runs: Sequence[Run]) -> tuple[list[Row], list[Problem]]:
    """The rows of all runs; one that does not fit is a problem, one without figures has none."""
    trainings = {}
    for run in runs:
        if run.values.get("checkpoint"):
            trainings[str(run.values["checkpoint"])] = run
    rows: list[Row] = []
    problems: list[Problem] = []
    for run in runs:
        try:
            found = list(_rows(run, trainings))
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
            reason = error if isinstance(error, ValueError) else repr(error)
            problems.append(Problem(run.path, f"its rows cannot be used: {reason}"))
            continue
        rows += found
    return rows, problems


def _rows(run: Run, trainings: Mapping[str, Run]) -> Iterator[Row]:
    entries = run.values.get("rows")
    if entries is None:
        entries = [run.values] if "mIoU" in run.values else []
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
        raise ValueError("'rows' is no list of objects")
    training = training_of(run, trainings)
    for entry in entries:
        timed = "latency_ms_p50" in entry and "mIoU" not in entry
        yield (_benchmark_row if timed else _accuracy_row)(run, entry, training)


def _accuracy_row(run: Run, entry: Mapping[str, Any], training: Run | None) -> Row:
    """A row of stepseg-train, stepseg-eval or stepseg-predict."""
    reduction = reduction_of_entry(entry, run)
    cell = cell_of(reduction, run, training)
    arena = {"kind": "accuracy", **image_fields(run, entry, cell)}
    weights, seed = weights_of(run, training)
    rules = mapping(reduction["merge"]), mapping(reduction["exit"])
    drawn = [rule.get("seed") for rule in rules if "random" in (rule.get("by"), rule.get("rule"))]
    seed = "/".join(map(str, [seed, *drawn, *corruption_seeds(run)]))
    fields = {
        **arena,
        **place_fields(run, entry),
        **reduction_fields(reduction),
        "policy": policy_name(run, training),
        **weights,
    }
    return _row(run, entry, reduction, arena, fields, seed, views_of(entry, cell))


def _benchmark_row(run: Run, entry: Mapping[str, Any], training: Run | None) -> Row:
    """A row of stepseg-benchmark."""
    protocol, config = mapping(entry.get("protocol")), run.config
    reduction = reduction_of_system(entry, config)
    model = model_of(run, training)
    tokens = protocol.get("tokens")
    clock = protocol.get("clock")
    arena = {
        "kind": "benchmark",
        "classes": model.get("num_classes", config.get("num_classes")),
        "resolution": size_words(entry.get("resolution")),
        "tokens": tokens if isinstance(tokens, str) else plain(tokens),
        "batch": entry.get("batch_size"),
        "pictures": (config.get("images") or "generated") if clock else None,
        "clock": None if clock is None else "without map" if "no map" in clock else "with map",
        "hardware": protocol.get("device_name"),
        "threads": protocol.get("threads"),
        "dtype": protocol.get("dtype"),
        "runtime": protocol.get("runtime"),
    }
    weights, _ = weights_of(run, training) if config.get("ckpt_path") else ({}, "")
    measured = tokens == "measured"
    fields = {
        **arena,
        **place_fields(run, entry),
        **reduction_fields(reduction if measured else without_thresholds(reduction)),
        "backbone": backbone_name(mapping(model.get("backbone") or config.get("backbone"))),
        "policy": mapping(model.get("policy") or config.get("policy")).get("name"),
        "attention": plain(protocol.get("attention_backend")),
        "warmup": protocol.get("warmup"),
        "iterations": protocol.get("iterations"),
        **weights,
    }
    seed = str(run.values.get("seed"))
    return _row(run, entry, reduction, arena, fields, seed, 1.0, prescribed=not measured)


def _row(
    run: Run,
    entry: Mapping[str, Any],
    reduction: Mapping[str, Any],
    arena: Mapping[str, Any],
    fields: dict[str, Any],
    seed: str,
    views: float,
    *,
    prescribed: bool = False,
) -> Row:
    tokens = tuple(numbers(entry, "tokens_per_stage"))
    system = system_of(reduction, prescribed=prescribed)
    fields.setdefault("backbone", None)
    counts = mapping(entry.get("superpatches"))
    return Row(
        run=run,
        name=str(entry.get("name", system)),
        system=system,
        arena=tuple((key, plain(value)) for key, value in arena.items()),
        fields={"system": str(system), **{key: plain(value) for key, value in fields.items()}},
        seed=seed,
        figures=_figures(entry, tokens) | ({"views": views} if views != 1.0 else {}),
        tokens=tuple(t / views for t in tokens),
        superpatches={int(s): (number(counts, s) or 0.0) / views for s in counts},
        extremes=_extremes(entry, views),
        parts={
            part: macs
            for part in mapping(entry.get("gmacs_by_part"))
            if (macs := number(mapping(entry["gmacs_by_part"]), part)) is not None
        },
    )


def _figures(entry: Mapping[str, Any], tokens: Tokens) -> dict[str, float]:
    figures = {}
    for name, keys in FIGURES.items():
        found = [n for key in keys if (n := number(entry, key)) is not None]
        if found:
            figures[name] = found[0]
    if tokens:
        figures |= {"tokens_in": tokens[0], "tokens_out": tokens[-1]}
        figures["exited_percent"] = 100 * (1 - tokens[-1] / tokens[0]) if tokens[0] else 0.0
    for side, calibration in mapping(entry.get("policy_calibration")).items():
        if (error := number(mapping(calibration), "ece")) is not None:
            figures[f"ece_{side}x{side}"] = error
    for block, calibration in mapping(entry.get("exit_calibration")).items():
        if (error := number(mapping(calibration), "ece")) is not None:
            figures[f"ece_exit_{block}"] = error
    return figures


def _extremes(entry: Mapping[str, Any], views: float) -> dict[str, tuple[float, float]]:
    ends = []
    for which in ("min", "max"):
        counts = mapping(entry.get(f"superpatches_{which}"))
        found = {f"superpatches_{side}": number(counts, side) for side in counts}
        left = numbers(entry, f"exited_until_{which}")
        ends.append(found | {f"exited_{head}": n for head, n in enumerate(left, start=1)})
    least, greatest = ends
    return {
        name: (low / views, high / views)
        for name, low in least.items()
        if low is not None and (high := greatest.get(name)) is not None
    }
