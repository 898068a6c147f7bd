"""stepseg-data: prepare data sets and check them.

stepseg-data prepare ade20k data/ade20k
stepseg-data check folder data/mine --split train --out outputs/check
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from stepseg import __version__
from stepseg.data.prepare import RECIPES, Options, prepare
from stepseg.data.specs import available, get_spec

GENERATED = {"synthetic": (512, 512), "drives": (360, 480)}
"""Scenes that are drawn, and their usual size."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 faults found, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except ValueError as error:
        print(f"stepseg-data: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # no permission, no space, no such place
        told = f"{error.strerror}: {error.filename}" if error.filename else error
        print(f"stepseg-data: {told}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stepseg-data", description="Prepare data sets for stepseg and check them."
    )
    parser.add_argument("--version", action="version", version=f"stepseg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    prepared = commands.add_parser(
        "prepare", help="download, unpack, convert and verify a data set; safe to run again"
    )
    prepared.add_argument("name", choices=sorted({*RECIPES, *GENERATED}))
    prepared.add_argument("root", type=Path, help="folder of the data set")
    prepared.add_argument("--archives", type=Path, help="folder of the archives (ROOT/archives)")
    prepared.add_argument("--url", help="other address of the archive, e.g. a mirror")
    prepared.add_argument("--image-size", type=int, nargs=2, metavar=("H", "W"))
    prepared.add_argument("--processes", type=int, default=processes)
    prepared.set_defaults(run=_prepare)

    checked = commands.add_parser(
        "check", help="scan ids, sizes and pairs of a split; writes check.json and overlays"
    )
    checked.add_argument("name", choices=available())
    checked.add_argument("root", type=Path, help="folder of the data set")
    checked.add_argument("--split", default="train")
    checked.add_argument("--out", type=Path, help="folder for check.json and overlays")
    checked.add_argument("--overlays", type=int, default=8, help="number of pictures")
    checked.add_argument("--processes", type=int, default=processes)
    checked.set_defaults(run=_check)
    return parser


def _prepare(options: argparse.Namespace) -> int:
    if options.name in GENERATED:
        from stepseg.data.synthetic import SceneParameters, ensure_scenes

        size = options.image_size or GENERATED[options.name]
        parameters = SceneParameters(tuple(size), kind=options.name)
        folder = ensure_scenes(options.root, parameters, options.processes)
        print(f"{folder} is complete: {_listed(parameters.counts)}")
        print(f"train on it with data={options.name} data.root={options.root}")
        return 0
    settings = Options(
        archives=options.archives or options.root / "archives",
        processes=options.processes,
        url=options.url,
        progress=_progress,
    )
    counts = prepare(get_spec(options.name), options.root, settings)
    print(f"{options.root} is complete: {_listed(counts)}")
    return 0


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {split}" for split, number in counts.items())


def _check(options: argparse.Namespace) -> int:
    # here, because --help needs no torch
    from stepseg.data.check import check_split, write_report
    from stepseg.pictures.figures import label_figure

    spec = get_spec(options.name, options.root)
    if options.out is not None:
        _make_folder(options.out)  # a split takes minutes to read
    report = check_split(spec, options.root, options.split, options.processes)
    print(report.table())
    for problem in report.problems[:20]:
        print(f"  {problem}")
    if len(report.problems) > 20:
        print(f"  ... and {len(report.problems) - 20} more, see check.json")
    if options.out is not None:
        draw = partial(label_figure, classes=spec.classes, palette=spec.palette)
        write_report(report, spec, options.root, options.out, draw, options.overlays)
        print(f"written: {options.out / 'check.json'}")
    return 1 if report.problems else 0


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--out {out}: this folder cannot be made ({error.strerror}); choose another one"
        ) from error


def _progress(step: str) -> Callable[[int, int | None], None]:
    """A counter on standard error: one line in a terminal, every tenth part elsewhere."""
    terminal = sys.stderr.isatty()
    shown = -1

    def show(done: int, total: int | None) -> None:
        nonlocal shown
        part = int(done / total * (100 if terminal else 10)) if total else done >> 24
        if part == shown:
            return
        shown = part
        amount = f"{done / total:4.0%}" if total else f"{done / 1e6:.0f} MB"
        print(f"{step} {amount}", file=sys.stderr, end="\r" if terminal else "\n", flush=True)
        if terminal and done == total:
            print(file=sys.stderr)

    return show


if __name__ == "__main__":
    sys.exit(main())
