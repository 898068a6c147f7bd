"""All that is to be known on a GPU, in three parts of under ten minutes.

    python benchmarks/gpu/run_all.py --part 1 --out rows.jsonl
    python benchmarks/gpu/run_all.py --part 2 --out rows.jsonl
    python benchmarks/gpu/run_all.py --part 3 --out rows.jsonl
    python benchmarks/gpu/render.py rows.jsonl

Part 1 asks whether everything is right on the device and what the pieces cost, part 2 are the
tables of ViT-L, part 3 those of the other backbones, the same in reverse and training steps. Time
on a borrowed GPU is short: sections run in processes of their own with a limit, their rows are on
the disk as soon as they are measured, and what fails does not stop the others. `--only` names
sections, `--toy --device cpu` runs all of it with the smallest models, in this process.

Needs the library alone: torch, timm, numpy, Pillow, rich and safetensors (`wheels.txt`).
"""

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

FOLDERS = [str(Path(__file__).parents[n]) for n in (1, 2)]
sys.path[:0] = [FOLDERS[0], f"{FOLDERS[1]}/src"]  # `gpu`, `paper_style` and the library

import torch  # noqa: E402

from gpu import claim, train, truth  # noqa: E402
from gpu.setting import Rows, Setting  # noqa: E402
from stepseg.profile import peak  # noqa: E402

PART_SECONDS = 540
"""Of a part, whatever its sections ask for: ten minutes hold its start, too."""
FAILED = 3
"""Exit status where every failure has its row; 1 is Python's own for what nobody caught."""


@dataclass(frozen=True)
class Section:
    """A piece of a part.

    Args:
        part: 1, 2 or 3.
        run: measures and adds rows.
        limit: seconds.

    """

    part: int
    run: Callable[[Setting, Rows], None]
    limit: int


def sections(setting: Setting) -> dict[str, Section]:
    """By name, what matters most first."""
    found = {
        "place": Section(1, truth.place, 60),
        "agreement": Section(1, truth.agreement, 150),
        "attention": Section(1, truth.attention, 60),
        "host_syncs": Section(1, truth.host_syncs, 60),
        "attention_kernels": Section(1, truth.attention_kernels, 90),
        "products": Section(1, truth.products, 40),
        "pieces": Section(1, truth.pieces, 90),
        "static": Section(1, truth.static, 120),
        "trace": Section(1, truth.trace, 60),
        "own_tests": Section(1, truth.own_tests, 120),
        "runtimes_agree": Section(1, truth.runtimes_agree, 200),
    }
    for runtime in sorted(truth.runtimes(setting), key=("eager", "graphs", "compile").index):
        run = partial(claim.large_1024, runtime)
        found[f"large_1024_{runtime}"] = Section(2, run, 170)
        found[f"large_512_{runtime}"] = Section(2, partial(claim.large_512, runtime), 150)
        found[f"large_768_{runtime}"] = Section(3, partial(claim.large_768, runtime), 120)
        found[f"base_{runtime}"] = Section(3, partial(claim.base, runtime), 150)
        found[f"dinov3_{runtime}"] = Section(3, partial(claim.dinov3, runtime), 150)
        if runtime == "eager":
            found["parts"] = Section(2, claim.parts, 60)
            found["training"] = Section(3, train.training, 150)
    found["published_style"] = Section(2, claim.published_style, 120)
    best = truth.runtimes(setting)[-1]
    found["reverse"] = Section(3, partial(claim.large_1024, best, reverse=True), 120)
    return found


def run_here(name: str, section: Section, setting: Setting, out: Path) -> bool:
    """Run a section in this process; a failure becomes a row."""
    rows = Rows(out, name, setting.place())
    try:
        section.run(setting, rows)
    except Exception as error:
        traceback.print_exc()
        rows.add(failed=f"{type(error).__name__}: {error}"[:500])
        return False
    return True


def run_apart(name: str, limit: float, arguments: list[str], setting: Setting, out: Path) -> bool:
    """Run a section in a process of its own, for so many seconds at most."""
    command = [sys.executable, __file__, *arguments, "--here", "--only", name]
    begin = time.monotonic()
    try:
        ended = subprocess.run(command, timeout=limit, check=False).returncode
        failed = None if ended in (0, FAILED) else f"the process ended with {ended}"
    except subprocess.TimeoutExpired:
        ended, failed = FAILED, f"stopped after {limit:.0f} s"
    if failed:
        Rows(out, name, setting.place()).add(failed=failed)
    print(f"-- {name}: {time.monotonic() - begin:.0f} s", flush=True)
    return ended == 0


def main(arguments: list[str] | None = None) -> int:
    """Run sections; the exit status says whether all of them succeeded."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--part", type=int, choices=(1, 2, 3), help="all without it")
    parser.add_argument("--only", nargs="+", help="names of sections")
    parser.add_argument("--out", type=Path, default=Path("rows.jsonl"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", help="folder; without it, generated scenes")
    parser.add_argument("--toy", action="store_true", help="the smallest of everything")
    parser.add_argument("--here", action="store_true", help="in this process, without limits")
    parser.add_argument("--list", action="store_true", help="name the sections and their limits")
    options = parser.parse_args(given)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no CUDA device here: --toy --device cpu is a rehearsal")
    setting = Setting(device, options.toy, options.images)
    if setting.toy:
        peak.SIDE, peak.SIDE_ELSEWHERE, peak.SECONDS = {}, 64, 0.0
    known = sections(setting)
    unknown = set(options.only or ()) - set(known)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    chosen = {
        name: section
        for name, section in known.items()
        if name in (options.only or known) and options.part in (None, section.part)
    }
    if options.list:
        for name, section in chosen.items():
            print(f"part {section.part}: {name}, {section.limit} s at most")
        return 0
    return 0 if _run(chosen, setting, options, given) else FAILED


def _run(
    chosen: dict[str, Section], setting: Setting, options: argparse.Namespace, given: list[str]
) -> bool:
    good, begin = True, time.monotonic()
    for name, section in chosen.items():
        if options.here or options.toy:
            good &= run_here(name, section, setting, options.out)
            continue
        left = PART_SECONDS - (time.monotonic() - begin) if options.part else section.limit
        if left < 20:
            Rows(options.out, name, setting.place()).add(skipped="no time left in this part")
            continue
        kept = _without(given, "--only")
        good &= run_apart(name, min(left, section.limit), kept, setting, options.out)
    return good


def _without(given: list[str], option: str) -> list[str]:
    """The arguments without an option and its values."""
    if option not in given:
        return given
    first = given.index(option)
    last = first + 1
    while last < len(given) and not given[last].startswith("--"):
        last += 1
    return given[:first] + given[last:]


if __name__ == "__main__":
    sys.exit(main())
