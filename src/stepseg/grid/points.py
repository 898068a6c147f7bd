"""The points of a grid: every combination of the lists under `sweep`, checked before data are read.

A point is a reduction in plain values. `Point.columns` are its parts as they stand in every row of
`result.json`. Not here: how points are evaluated (`stepseg.evaluation`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from stepseg.model_config import CRITERIA, ReductionConfig, change_merge
from stepseg.reduction import Reduction, label_of
from stepseg.report.fields import COLUMNS, SEEDS

AXES = {
    "merge_thresholds": ("merge", "thresholds"),
    "top_k": ("merge", "top_k"),
    "edge_weights": ("merge", "edge_weight"),
    "resizes": ("merge", "resize"),
    "merge_seeds": ("merge", "seed"),
    "inside_r": ("inside", "r"),
    "inside_thresholds": ("inside", "threshold"),
    "cells": ("input", "cell"),
    "budgets": ("budget", "gmacs_per_image"),
    "exit_blocks": ("exit", "blocks"),
    "exit_rules": ("exit", "rule"),
    "exit_thresholds": ("exit", "threshold"),
    "keep_per_class": ("exit", "keep_per_class"),
    "exit_tokens": ("exit", "tokens"),
    "exit_seeds": ("exit", "seed"),
}
"""Which part of the reduction a list of `sweep` replaces; `merge_threshold_2` and its like replace
the threshold of one window size."""

ONE_THRESHOLD = "merge_threshold_"

BELONGS = {
    "threshold": ("confidence", "margin", "random", "uniform"),
    "keep_per_class": ("confidence", "margin", "random", "uniform"),
    "tokens": ("budget",),
    "seed": ("random",),
}
"""Which exit rules read a number of the exit."""

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """One reduction of a grid."""

    name: str
    """What tells it apart within the grid."""
    values: Values
    """The reduction as nested plain values."""
    axes: Mapping[str, Any]
    """The value of every list of `sweep` that matters to this point."""
    system: str = ""
    """What the user called the system, of several that were chosen by name."""

    @property
    def label(self) -> str:
        """The system's name in tables, with what was swept."""
        reduction = self.build()
        if not self.system:
            return reduction.label
        swept = self.name.removeprefix(self.system)
        return f"{label_of(self.system, reduction.exit_blocks)}{swept}"

    def build(self) -> Reduction:
        """Make the reduction."""
        return ReductionConfig.from_dict(self.values).build()

    def columns(self) -> Values:
        """The parts of the reduction under plain names; None where a part is off."""
        exit_ = self.values.get("exit") or {}
        read = {k: v for k, v in exit_.items() if exit_.get("blocks") and _is_read(k, exit_)}
        values = {**self.values, "exit": read}
        columns = {
            column: (values.get(part) or {}).get(field)
            for column, (part, field) in (COLUMNS | SEEDS).items()
        }
        if columns["merge_by"] != "random":
            columns["merge_seed"] = None
        return {k: list(v) if isinstance(v, tuple) else v for k, v in columns.items()}


def grid_points(
    base: Mapping[str, Any],
    sweep: Mapping[str, list[Any] | None],
    check: Callable[[Reduction], None],
) -> list[Point]:
    """All combinations of the lists in `sweep` over a reduction.

    What an exit rule does not read makes no points of its own: `exit_seeds` multiplies the random
    rule and leaves the others at one point each.

    Args:
        base: the reduction as nested plain values.
        sweep: lists by the names of `AXES`, or ``merge_threshold_<window>``; None: not swept.
        check: refuses, by a ValueError, a reduction that the model cannot carry out.

    Raises:
        ValueError: names every list and value that cannot be.

    """
    lists = {key: choices for key, choices in sweep.items() if choices is not None}
    _check_lists(base, lists)
    points: dict[str, Point] = {}
    problems: dict[tuple[str, ...], str] = {}
    for chosen in product(*lists.values()):
        point = _point(base, dict(zip(lists, chosen, strict=True)))
        if point.name in points:
            continue
        points[point.name] = point
        if message := _problem(point, check):
            problems.setdefault(_causes(base, point, message, check), message)
    if problems:
        raise ValueError(_report(problems))
    for key in lists:
        if not any(key in point.axes for point in points.values()):
            rules = " or ".join(BELONGS.get(_target(key)[1], ()))
            needs = f"exit blocks and the exit rule {rules}" if rules else "exit blocks"
            raise ValueError(f"sweep.{key} changes nothing: it needs {needs}")
    return list(points.values())


def _check_lists(base: Mapping[str, Any], lists: Mapping[str, Any]) -> None:
    """Refuse unknown names, what is no list, and lists for parts that the reduction lacks."""
    problems = []
    for key, choices in lists.items():
        if key not in AXES and not key.startswith(ONE_THRESHOLD):
            known = f"{', '.join(AXES)} and {ONE_THRESHOLD}<window>"
            problems.append(f"sweep.{key} is unknown; known: {known}")
            continue
        part, _ = _target(key)
        if not isinstance(choices, list):
            problems.append(f"sweep.{key}={choices}: give a list, such as [{choices}]")
        elif not choices:
            problems.append(f"sweep.{key} is empty: list at least one value, or null")
        elif base.get(part) is None:
            problems.append(f"sweep.{key}: the reduction has no {part}")
        elif key.startswith(ONE_THRESHOLD):
            problems += _threshold_problems(key, base["merge"], lists)
    criteria = {"thresholds" if k.startswith(ONE_THRESHOLD) else _target(k)[1] for k in lists}
    if criteria >= set(CRITERIA):
        problems.append("sweep.top_k and sweep.merge_threshold... exclude each other")
    if problems:
        raise ValueError("; ".join(problems))


def _threshold_problems(key: str, merge: Mapping[str, Any], lists: Mapping[str, Any]) -> list[str]:
    window = key.removeprefix(ONE_THRESHOLD)
    if window not in map(str, merge["windows"]):
        return [f"sweep.{key}: the reduction merges windows of {list(merge['windows'])}"]
    if merge.get("thresholds") is None and not lists.get("merge_thresholds"):
        return [f"sweep.{key}: the reduction has no merge thresholds, but top_k={merge['top_k']}"]
    return []


def _point(base: Mapping[str, Any], chosen: Mapping[str, Any]) -> Point:
    """The reduction with the chosen values in their places."""
    values = {part: dict(numbers) if numbers else None for part, numbers in base.items()}
    for key, value in chosen.items():
        part, field = _target(key)
        numbers = values[part]
        assert numbers is not None
        if key.startswith(ONE_THRESHOLD):
            windows, thresholds = numbers["windows"], numbers["thresholds"]
            if isinstance(thresholds, list | tuple) and len(thresholds) == len(windows):
                position = [str(side) for side in windows].index(field)
                numbers["thresholds"] = [*thresholds[:position], value, *thresholds[position + 1 :]]
            continue  # other lists are refused as they are, when the reduction is built
        changes = {field: value}
        values[part] = change_merge(numbers, changes) if part == "merge" else numbers | changes
    exit_ = values.get("exit")
    if exit_ and exit_.get("rule") != "budget":
        exit_["tokens"] = []
    axes = {key: value for key, value in chosen.items() if _matters(key, exit_)}
    labels = [f"{_label(key)}={_shown(value)}" for key, value in axes.items()]
    return Point(" ".join(labels) or "reduction", values, axes)


def _target(key: str) -> tuple[str, str]:
    """Part and field of the reduction that a list replaces; of one threshold its window."""
    return AXES.get(key) or ("merge", key.removeprefix(ONE_THRESHOLD))


def _label(key: str) -> str:
    part, field = _target(key)
    return f"merge.threshold_{field}" if key.startswith(ONE_THRESHOLD) else f"{part}.{field}"


def _shown(value: Any) -> str:
    return (",".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def _matters(key: str, exit_: Mapping[str, Any] | None) -> bool:
    part, field = _target(key)
    if part != "exit" or field == "blocks":
        return True
    return exit_ is not None and bool(exit_.get("blocks")) and _is_read(field, exit_)


def _is_read(field: str, exit_: Mapping[str, Any]) -> bool:
    """Whether the rule of this exit reads a number; unknown rules are refused elsewhere."""
    return field not in BELONGS or exit_.get("rule", "confidence") in BELONGS[field]


def _problem(point: Point, check: Callable[[Reduction], None]) -> str | None:
    try:
        check(point.build())
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def _causes(
    base: Mapping[str, Any], point: Point, message: str, check: Callable[[Reduction], None]
) -> tuple[str, ...]:
    """The swept values without which nothing, or else something else, would be wrong."""
    left: dict[str, str | None] = {}
    for key, value in point.axes.items():
        others = {k: v for k, v in point.axes.items() if k != key}
        left[f"sweep.{key}={_shown(value)}"] = _problem(_point(base, others), check)
    cures = [axis for axis, problem in left.items() if problem is None]
    changes = [axis for axis, problem in left.items() if problem != message]
    return tuple(cures or changes or [point.name])


def _report(problems: Mapping[tuple[str, ...], str]) -> str:
    """One line per cause; combinations of what is bad alone say nothing new."""
    alone = {causes[0] for causes in problems if len(causes) == 1}
    lines = [
        f"{', '.join(causes)}: {message}"
        for causes, message in problems.items()
        if len(causes) == 1 or alone.isdisjoint(causes)
    ]
    return "the grid has impossible points\n  " + "\n  ".join(lines)
