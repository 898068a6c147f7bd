"""A benchmark: operations, speed and memory of systems side by side, in turns."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from stepseg.budget import within_budget
from stepseg.build import build_segmenter
from stepseg.checkpoint import Checkpoint, check_data
from stepseg.cli.benchmark.options import Options, systems, with_tokens
from stepseg.cli.config import output_dir, overrides, plain, recorded
from stepseg.cli.result import Result
from stepseg.cli.tracking import make_loggers, tracked_result
from stepseg.model import Reduction, StepSegmenter
from stepseg.model_config import ModelConfig, ReductionConfig
from stepseg.profile.benchmark import (
    CLOCKS,
    Rounds,
    Row,
    benchmark,
    compare_costs,
    environment,
    measured_cost,
    prescribed_cost,
)
from stepseg.profile.break_even import unpaid
from stepseg.profile.charts import plot_parts, plot_rows, table_of_parts, table_of_rows, write_csv
from stepseg.profile.images import load_images
from stepseg.profile.parts import profile_parts
from stepseg.profile.throughput import throughput
from stepseg.reduction import label_of
from stepseg.runtime.apply import apply_runtime
from stepseg.telling import show_table, tell


def run(cfg: DictConfig) -> None:
    """Check the request, count, time, and write `result.json`, CSV files and plots."""
    values = plain(cfg)
    with tracked_result("stepseg-benchmark", recorded(cfg)) as result:
        options = Options.from_values(values)
        values["dtype"] = options.dtype_name
        datamodule = None
        if values.get("data"):
            # here, with Lightning, which nothing else needs
            from stepseg.cli.benchmark.data import measure_data
            from stepseg.cli.trainer import make_datamodule

            datamodule = make_datamodule(values)
            values["num_classes"] = datamodule.num_classes
        config, chosen, checkpoint = systems(values, overrides())
        result.update({"model": config.to_dict()})
        if checkpoint is not None and datamodule is not None:
            other_names = check_data(checkpoint, datamodule.spec.classes, datamodule.spec.name)
            if other_names:
                tell(f"stepseg-benchmark: {other_names}")
        built = {name: system.build() for name, system in chosen.items()}
        reductions = with_tokens(built, options, config.backbone.patch_size)
        sketch = _checked(config, reductions, options, values["parts"])
        if not values["speed"] and options.tokens != "measured":
            result.update({"device": None, "dtype": values["dtype"]})
            _publish(_count(sketch, reductions, options), chosen, values, result)
            return
        images = _images(values, options).to(options.device, options.dtype)
        if values["threads"]:
            torch.set_num_threads(values["threads"])
        model = _model(config, checkpoint, options, values)
        place = environment(options.device, model, options.dtype)
        result.update({"device": place["device"], "dtype": values["dtype"], "environment": place})
        rows = _rows(model, reductions, images, options, values, place)
        _publish(rows, chosen, values, result)
        if datamodule is not None:
            crop = replace(options, image_size=datamodule.crop_size)
            trained = with_tokens(built, crop, config.backbone.patch_size)
            figures = measure_data(
                datamodule, config, checkpoint, trained, crop, iterations=values["iterations"]
            )
            result.update({"data": figures})
        if values["parts"]:
            result.update({"parts": _parts(model, reductions, images, options)})


def _checked(
    config: ModelConfig, reductions: Mapping[str, Reduction], options: Options, parts: bool
) -> StepSegmenter:
    """The model on the meta device; refuses what it cannot carry out before any weight is made."""
    with torch.device("meta"):
        model = build_segmenter(config, load_weights=False)
    for reduction in reductions.values():
        model.check(reduction)
        cell = reduction.cell or model.patch_size
        rows, columns = (-(-side // cell) * model.patch_size for side in options.image_size)
        size = options.image_size if reduction.cell is None else (rows, columns)
        within_budget(model, reduction, size)
    inside = [r.label for r in reductions.values() if r.inside is not None]
    if parts and inside:
        raise ValueError(
            f"parts=true times whole blocks, and {', '.join(inside)} act inside them: leave it "
            f"out of reductions, or use parts=false (gmacs_by_part counts the matching)"
        )
    return model


def _count(
    model: StepSegmenter, reductions: Mapping[str, Reduction], options: Options
) -> list[Row]:
    """Tokens and MACs alone."""
    rows = {
        name: prescribed_cost(model, reduction, options.image_size)
        for name, reduction in reductions.items()
    }
    compare_costs(rows)
    return [_describe(name, row, options, reductions[name], None) for name, row in rows.items()]


def _images(values: Mapping[str, Any], options: Options) -> Tensor:
    """Enough images for whole batches of every size."""
    largest = max(options.batch_sizes)
    count = max(largest, values["num_images"])
    images = load_images(values["images"], options.image_size, count, values["seed"])
    if len(images) < largest:
        raise ValueError(
            f"images={values['images']!r} holds {len(images)} image(s), fewer than a batch of "
            f"{largest}: one image repeated would hide what ragged batches cost"
        )
    return images


def _model(
    config: ModelConfig, checkpoint: Checkpoint | None, options: Options, values: Mapping[str, Any]
) -> StepSegmenter:
    torch.manual_seed(values["seed"])
    model = checkpoint.build() if checkpoint else build_segmenter(config)
    return model.prepare_for_inference().to(options.device, options.dtype)


def _rows(
    model: StepSegmenter,
    reductions: Mapping[str, Reduction],
    images_N3HW: Tensor,
    options: Options,
    values: Mapping[str, Any],
    place: Row,
) -> list[Row]:
    rows = []
    for runtime, batch_size in product(options.runtimes, options.batch_sizes):
        apply_runtime(model, runtime)
        whole = len(images_N3HW) // batch_size * batch_size
        batches = images_N3HW[:whole].split(batch_size)
        for rounds in options.protocols:
            flying = {
                number: throughput(
                    model, reductions, batches, in_flight=number, with_map=rounds.with_map
                )
                for number in options.in_flight
            }
            if values["speed"]:
                title = f"batch {batch_size}, {'with' if rounds.with_map else 'without'} map"
                figures = _timed(model, reductions, batches, rounds, title)
            else:
                figures = {n: measured_cost(model, r, batches) for n, r in reductions.items()}
                compare_costs(figures)
            for name, row in figures.items():
                described = _describe(name, row, options, reductions[name], rounds)
                described |= {"batch_size": batch_size, "images": whole}
                described["protocol"] |= {"runtime": runtime, **place}
                described["throughput"] = {str(n): rates[name] for n, rates in flying.items()}
                if values["speed"]:
                    used = described["gmacs"] * described["images_per_s"]
                    described["mfu"] = used / place["matmul_gmacs_per_s"]
                rows.append(described)
    return rows


def _timed(
    model: StepSegmenter,
    reductions: Mapping[str, Reduction],
    batches: Sequence[Tensor],
    rounds: Rounds,
    title: str,
) -> dict[str, Row]:
    """`benchmark` with a progress bar, where there is a terminal."""
    with Progress(transient=True, disable=not Console().is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return benchmark(model, reductions, batches, rounds, progress=progress)


def _describe(
    name: str, row: Row, options: Options, reduction: Reduction, rounds: Rounds | None
) -> Row:
    """A row of `result.json`: what was run, its figures, and under which protocol."""
    height, width = options.image_size
    tokens = options.tokens if isinstance(options.tokens, str) else list(options.tokens)
    figures = dict.fromkeys(
        ("latency_ms_p50", "latency_ms_p95", "images_per_s", "mfu", "peak_memory_mb", "realisation")
    )
    return {
        "name": name,
        "system": label_of(name, reduction.exit_blocks),
        "exit_blocks": list(reduction.exit_blocks),
        "resolution": height if height == width else [height, width],
        "batch_size": None,
        **figures,
        **row,
        "protocol": {
            "tokens": tokens,
            "warmup": rounds.warmup if rounds else None,
            "iterations": rounds.iterations if rounds else None,
            "clock": CLOCKS[rounds.with_map] if rounds else None,
            "dtype": str(options.dtype).removeprefix("torch."),
        },
    }


def _publish(
    rows: list[Row],
    chosen: Mapping[str, ReductionConfig],
    values: Mapping[str, Any],
    result: Result,
) -> None:
    """The rows in `result.json`, as a table, as files, and to the loggers, if there are any."""
    result.update({"rows": [{**row, "reduction": asdict(chosen[row["name"]])} for row in rows]})
    show_table(table_of_rows(rows))
    for name, line in {row["system"]: unpaid(row.get("exits", ())) for row in rows}.items():
        if line:
            tell(f"{name}: {line}")
    write_csv(rows, output_dir() / "benchmark.csv")
    plot_rows(rows, output_dir() / "benchmark.png")
    tell(f"result.json, benchmark.csv and benchmark.png are in {output_dir()}")
    loggers = make_loggers(values, "benchmark")
    if not loggers:
        return
    from stepseg.lit.tracking.final import log_final
    from stepseg.lit.tracking.record import log_config

    several = len({row["name"] for row in rows}) < len(rows)
    named = {f"{r['name']} ({i})" if several else r["name"]: r for i, r in enumerate(rows)}
    log_config(loggers, result.described())
    log_final(loggers, output_dir(), result.described(), named, step=0, each=not several)


def _parts(
    model: StepSegmenter,
    reductions: Mapping[str, Reduction],
    images_N3HW: Tensor,
    options: Options,
) -> dict[str, list[Row]]:
    """Operations and time of every part of each system, also as a table and files."""
    rounds = options.protocols[0]
    parts = profile_parts(
        model,
        reductions,
        images_N3HW[: options.batch_sizes[0]],
        warmup=rounds.warmup,
        iterations=rounds.iterations,
    )
    shown = {label_of(name, reductions[name].exit_blocks): rows for name, rows in parts.items()}
    show_table(table_of_parts(shown))
    rows = [{"name": name, **part} for name, list_ in parts.items() for part in list_]
    write_csv(rows, output_dir() / "parts.csv")
    plot_parts(shown, output_dir() / "parts.png")
    return parts
