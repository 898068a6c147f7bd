"""Systems by name: `reductions=[none,cts,dcts,step@6+8]` of stepseg-benchmark and stepseg-eval.

A name is an entry of the config group `systems`; behind an ``@`` stand the blocks after which
tokens leave. With a checkpoint, what it was trained with takes the place of the defaults.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from stepseg.grid.points import AXES, ONE_THRESHOLD, Point, grid_points
from stepseg.model_config import CRITERIA, ReductionConfig
from stepseg.plain_types import choices
from stepseg.reduction import DENSE, Reduction
from stepseg.reduction_file import BESIDE, SUFFIX, read_values

NO_HEADS = (
    "the checkpoint has no exit heads: choose a reduction without exits, such as dcts, or train "
    "with this one"
)


def named_system(
    name: str,
    known: Mapping[str, Mapping[str, Any]],
    own: ReductionConfig | None = None,
    overrides: Sequence[str] = (),
    *,
    placed_later: bool = False,
) -> ReductionConfig:
    """The reduction behind a name.

    Args:
        name: such as ``dcts`` or ``step@6+8``, or a file of `stepseg-tune`.
        known: the config group `systems`.
        own: the reduction of the checkpoint: `dcts`, `step` and `random` merge, everybody exits and
            its own rule acts inside the blocks as it does, unless `overrides` change the system.
        overrides: what the user typed.
        placed_later: whether a sweep says after which blocks tokens leave.

    Raises:
        ValueError: an unknown name, a placement that cannot be read, or none for its exits.

    """
    base, _, placement = name.partition("@")
    if base.endswith(SUFFIX):
        known = {base: read_values(base)}
    if base not in known:
        raise ValueError(f"reductions={name!r}: {choices(base, [DENSE, *known])}")
    values = {key: value for key, value in known[base].items() if key not in BESIDE}
    trained = asdict(own) if own else {}
    changed = base.endswith(SUFFIX) or any(
        o.lstrip("+").startswith(f"systems.{base}.") for o in overrides
    )
    scored = (trained.get("merge") or {}).get("by") == "policy"
    if base in ("dcts", "step", "random") and scored and not changed:
        by = {"by": values["merge"]["by"]} if base == "random" else {}
        values["merge"] = trained["merge"] | by
    own_rule = (trained.get("inside") or {}).get("rule")
    if own_rule and (values.get("inside") or {}).get("rule") == own_rule and not changed:
        values["inside"] = trained["inside"]
    if values["exit"] and trained.get("exit"):
        said = values["exit"] if changed else {}
        values["exit"] = trained["exit"] | {k: v for k, v in said.items() if v is not None}
    if placement and not values["exit"]:
        raise ValueError(f"reductions={name!r}: {base} has no exits to place")
    if placement:
        values["exit"] = {**values["exit"], "blocks": _blocks(name, placement), "heads": None}
    config = ReductionConfig.from_dict(values)
    if config.exit and not (config.exit.blocks or placed_later):
        heads = "+".join(map(str, own.exit.head_blocks)) if own and own.exit else ""
        raise ValueError(
            f"reductions={name!r} lets tokens leave: "
            + (f"say where, as in {base}@{heads}" if heads else NO_HEADS)
        )
    return config


def system_points(
    names: Sequence[str],
    known: Mapping[str, Mapping[str, Any]],
    own: ReductionConfig,
    sweep: Mapping[str, list[Any] | None],
    check: Callable[[Reduction], None],
    overrides: Sequence[str] = (),
) -> list[Point]:
    """The systems as points of a grid; a list of `sweep` multiplies those that have its part.

    Raises:
        ValueError: as `named_system` and `grid_points`, naming the system; a list that no system
            has a part for.

    """
    names = checked_names(names)
    lists = {key: choices for key, choices in sweep.items() if choices is not None}
    unused = set(lists)
    points = []
    for name in names:
        later = "exit_blocks" in lists
        base = asdict(named_system(name, known, own, overrides, placed_later=later))
        placed = {"exit_blocks"} if "@" in name else set()
        fitting = {k: v for k, v in lists.items() if _has_part(base, k) and k not in placed}
        unused -= set(fitting)
        try:
            found = grid_points(base, fitting, check)
        except ValueError as error:
            raise ValueError(f"reductions={name}: {error}") from error
        points += [
            replace(p, system=name, name=name if not p.axes else f"{name} {p.name}") for p in found
        ]
    if unused:
        raise ValueError(
            f"{', '.join(f'sweep.{key}' for key in sorted(unused))}: none of the systems "
            f"{', '.join(names)} has that part"
        )
    return points


def checked_names(names: Sequence[str]) -> list[str]:
    """The names with ``none`` for ``dense``; refuses no system, and the same one twice."""
    chosen = ["none" if name == DENSE else name for name in names]
    if not chosen or len(set(chosen)) != len(chosen):
        raise ValueError(
            f"reductions must name each system once and at least one, got {list(names)}"
        )
    return chosen


def _blocks(name: str, placement: str) -> tuple[int, ...]:
    try:
        return tuple(int(block) for block in placement.split("+"))
    except ValueError:
        raise ValueError(
            f"reductions={name!r}: exits are placed as in step@6+8, after blocks 6 and 8"
        ) from None


def _has_part(values: Mapping[str, Any], key: str) -> bool:
    part, field = AXES.get(key) or ("merge", "thresholds")
    numbers = values.get(part)
    if numbers is None:
        return key not in AXES and not key.startswith(ONE_THRESHOLD)  # refused by its name
    if field in CRITERIA:
        return bool(numbers.get(field))
    return field in numbers and (key != "merge_seeds" or numbers.get("by") == "random")
