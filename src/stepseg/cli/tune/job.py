"""A search: from a target to a reduction file, with figures from images that it has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig

from gpu_pool.guard import check_sweep
from stepseg.card.files import check_place
from stepseg.cli.comparison import print_comparison
from stepseg.cli.config import checkpoint_reduction, output_dir, overrides, plain, recorded
from stepseg.cli.evaluate.job import check_figures
from stepseg.cli.evaluate.setting import Setting
from stepseg.cli.result import Result
from stepseg.cli.tracking import tracked_result
from stepseg.cli.trainer import clear_failures
from stepseg.cli.tune.choice import FILE, write_choice
from stepseg.cli.tune.guarantee import guarantee
from stepseg.cli.tune.walks import Walks
from stepseg.cli.typed import refuse_typed
from stepseg.grid.table import write_grid_csv
from stepseg.lit.tracking.final import log_final
from stepseg.model_config import ReductionConfig
from stepseg.report.pareto import pareto_front
from stepseg.telling import tell
from stepseg.tuning.families import Family, families, grid_cells
from stepseg.tuning.front import plot_front
from stepseg.tuning.latency import meet_latency
from stepseg.tuning.search import Search, Tried
from stepseg.tuning.split import Parts, split_images
from stepseg.tuning.target import target_of

TARGETS = ("gmacs", "latency_ms", "max_drop", "certify")
UNITS = {"gmacs": "GMACs", "latency_ms": "ms"}
WITHIN = 0.02
"""Of a budget, on the held-out images; beyond it a reason is told."""
SHOWN = ("dense", "given", "tuned")


def tune(cfg: DictConfig) -> float | None:
    """Search, evaluate on the held-out images, write `reduction.yaml` and `result.json`."""
    values = plain(cfg)
    with tracked_result("stepseg-tune", recorded(cfg)) as result:
        check_sweep(values)
        check_place(output_dir())
        target, number = target_of(values, TARGETS)
        _check_typed(target)
        if target == "certify":
            guarantee(values, result)
            return None
        setting = Setting.open("stepseg-tune", values, result, "tune")
        base = ReductionConfig.from_dict(
            checkpoint_reduction(values["reduction"], setting.checkpoint.config)
        )
        parts = _parts(setting)
        walks = Walks(setting, parts)
        search = Search(
            families=_families(base, setting),
            walk=walks.rows,
            cost=lambda row: float(row["gmacs_mean"]),
            share=len(parts.scouted) / len(parts.calibration),
            unpaid=values["unpaid_exits"],
        )
        with clear_failures(values, setting.trainer, result.fail):
            _scout(search, parts)
            if target == "latency_ms":
                chosen = meet_latency(search, number, walks.clock("calibration"))
            else:
                chosen = _search(search, target, number)
            search.draw_front(chosen.family)
            rows = _held_out(walks, search, chosen, base)
            if target == "latency_ms":
                named = {row["name"]: row for row in rows if row["name"] in SHOWN}
                given = {n: ReductionConfig.from_dict(r["reduction"]) for n, r in named.items()}
                for name, times in walks.clock("held_out").times(given).items():
                    named[name].update(times)
        row = rows[-1]
        reason = _reason(target, number, row, chosen.row, rows[0]["mIoU"] - row["mIoU"])
        result.update({**row, "rows": rows, **_account(search, chosen, parts), "reason": reason})
        result.update({"target": {target: number}, "reduction_file": FILE})
        check_figures(rows)
        if setting.trainer.is_global_zero:
            _write(setting, chosen, rows, {target: number}, result)
            _tell(search, rows, reason)
            log_final(
                setting.trainer.loggers,
                output_dir(),
                result.described(),
                {row["name"]: row for row in rows if row["name"] in SHOWN},
                step=0,
                classes=setting.datamodule.spec.classes,
            )
    return float(row["mIoU"])


def _check_typed(target: str) -> None:
    """Refuse options that say nothing of this target."""
    others: tuple[str, ...] = ("images", "delta", "bound")
    if target == "certify":
        others = ("calibration", "unpaid_exits", "logger", "trainer.precision", "trainer.devices")
    refuse_typed(others, overrides(), f"{target}=")


def _families(base: ReductionConfig, setting: Setting) -> list[Family]:
    """The families that this model can carry out."""
    model = setting.model
    image = setting.datamodule.dataset("test").pairs[0].image
    cells = grid_cells(image, setting.datamodule.protocol, base.input.cell or model.patch_size)
    found = families(base, model.exit_head_blocks, model.patch_size, cells)
    for family in found:
        model.check(family.at(0.5).build())
    return found


def _parts(setting: Setting) -> Parts:
    setting.datamodule.prepare_data()
    pairs = setting.datamodule.dataset("test").pairs
    values = setting.values
    return split_images(
        [(pair.name, pair.image) for pair in pairs], values["calibration"], values["seed"]
    )


def _scout(search: Search, parts: Parts) -> None:
    tell(
        f"stepseg-tune: scouting {', '.join(f.name for f in search.families)} on "
        f"{len(parts.scouted)} images"
    )
    search.scout()
    if search.left_out:
        names = ", ".join(search.left_out)
        tell(f"left out, as an exit costs more than it saves (unpaid_exits=true): {names}")
    tell(f"stepseg-tune: searching on {len(parts.calibration)} images")


def _search(search: Search, target: str, number: float) -> Tried:
    """Carry the search out."""
    if target == "max_drop":
        chosen = search.keep(number)
        none = f"no reduction that was tried loses at most {number:g} points of mIoU"
    else:
        chosen = search.meet(number, UNITS[target])
        none = "no reduction that was tried stays within the budget"
    if chosen is None:
        raise ValueError(none)
    return chosen


def _held_out(
    walks: Walks, search: Search, chosen: Tried, base: ReductionConfig
) -> list[dict[str, Any]]:
    """Rows of the front on the images that had no say: the dense run first, the choice last."""
    tell(f"stepseg-tune: evaluating the choice and the front on {len(walks.parts.held_out)} images")
    costs = [(search.cost(t.row), t.row["mIoU"]) for t in search.tried]
    front = [search.tried[i] for i in pareto_front(costs)]
    named = {"dense": ReductionConfig(), "given": base}
    named |= {f"{t.family.name} {t.strength:g}": t.reduction for t in front if t is not chosen}
    named["tuned"] = chosen.reduction
    found = walks.rows("held_out", list(named.values()))
    place = walks.folder("held_out").relative_to(output_dir())
    return [
        {**row, "name": name, "confusion": (place / row["confusion"]).as_posix()}
        for name, row in zip(named, found, strict=True)
    ]


def _reason(
    target: str, number: float, row: Mapping[str, Any], seen: Mapping[str, Any], drop: float
) -> str | None:
    """Why the target is missed on the held-out images; None: it is not."""
    if target == "max_drop":
        if drop <= number:
            return None
        return (
            f"{drop:.2f} points are lost on the held-out images: so few images "
            f"({seen['images']} to choose by, {row['images']} here) do not know mIoU better"
        )
    if target == "latency_ms":
        got = row["latency_ms_p50"]
        if abs(got / number - 1) <= WITHIN:
            return None
        return f"{got:.4g} ms in turns with the dense model on the held-out images: timings scatter"
    got, found = row["gmacs_mean"], seen["gmacs_mean"]
    if abs(got / number - 1) <= WITHIN:
        return None
    if abs(found / number - 1) > WITHIN:
        return (
            f"the nearest that was found takes {found:.4g} on the calibration images: the number "
            f"of this reduction moves in steps, or its thresholds leave a gap"
        )
    error = row["gmacs_std"] / row["images"] ** 0.5
    return (
        f"{found:.4g} on the calibration images, {got:.4g} on the others, whose mean is known to "
        f"within {error:.2g} (one standard error of {row['images']} images)"
    )


def _account(search: Search, chosen: Tried, parts: Parts) -> dict[str, Any]:
    """What the search did, for `result.json`."""
    tried = [
        {
            "family": t.family.name,
            "strength": t.strength,
            "cost": search.cost(t.row),
            **{key: t.row[key] for key in ("mIoU", "gmacs_mean", "tokens_per_stage")},
            "chosen": t is chosen,
        }
        for t in search.tried
    ]
    return {
        "search": {
            "evaluations": round(search.used, 2),
            "limit": search.limit,
            "dense_mIoU": search.dense["mIoU"],
            "tried": tried,
        },
        "images_by_part": {key: len(names) for key, names in asdict(parts).items()},
        "family": chosen.family.name,
    }


def _write(
    setting: Setting,
    chosen: Tried,
    rows: Sequence[Mapping[str, Any]],
    target: Mapping[str, float],
    result: Result,
) -> None:
    """The reduction file and the card, the front as a picture and a table."""
    row, dense = rows[-1], rows[0]
    tuned = {
        "target": dict(target),
        "checkpoint": setting.checkpoint.path.name,
        "data": setting.datamodule.spec.name,
        "images": row["images"],
        "mIoU": round(row["mIoU"], 3),
        "gmacs_mean": round(row["gmacs_mean"], 4),
        "dense_mIoU": round(dense["mIoU"], 3),
        "dense_gmacs_mean": round(dense["gmacs_mean"], 4),
        **{key: round(row[key], 3) for key in ("latency_ms_p50", "speedup") if key in row},
        "git_sha": result.values["git_sha"],
    }
    write_choice(setting.checkpoint, chosen.reduction, "tuned", tuned)
    write_grid_csv(output_dir() / "front.csv", rows, setting.datamodule.spec.classes)
    plot_front(rows, result.values["search"], target, output_dir() / "front.png")


def _tell(search: Search, rows: Sequence[Mapping[str, Any]], reason: str | None) -> None:
    shown = {row["name"]: row for row in rows if row["name"] in SHOWN}
    print_comparison(shown, f"{rows[-1]['images']} images that the search has not seen")
    tell(f"search  {search.used:.1f} of {search.limit:g} evaluations of the calibration images")
    if reason:
        tell(f"missed  {reason}")
    tell(f"file    reduction={output_dir() / FILE}")
