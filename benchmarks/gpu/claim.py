"""Parts 2 and 3: the tables, in turns, with the same optimisations for the dense model."""

import argparse
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import paper_style
import torch

from gpu.setting import CLASSES, Rows, Setting
from stepseg.model import Reduction, StepSegmenter
from stepseg.profile.benchmark import Rounds, benchmark, environment
from stepseg.profile.parts import profile_parts
from stepseg.profile.throughput import throughput
from stepseg.runtime.apply import apply_runtime

BATCHES = {512: (1, 8, 32), 768: (1, 8), 1024: (1, 8)}


def table(
    name: str,
    resolutions: Sequence[int],
    runtime: str,
    setting: Setting,
    rows: Rows,
    *,
    reverse: bool = False,
) -> None:
    """Latency, throughput and memory of all systems of a backbone under one runtime."""
    if setting.toy:
        resolutions = resolutions[:1]
    for pixels in resolutions:
        begin = time.perf_counter()
        model = setting.model(name, CLASSES[pixels]).prepare_for_inference().to(setting.dtype)
        apply_runtime(model, runtime)
        place = environment(setting.device, model, setting.dtype)
        for batch in (2,) if setting.toy else BATCHES[pixels]:
            images = setting.images(max(batch, 2 if setting.toy else 8), pixels).to(setting.dtype)
            batches = images[: len(images) // batch * batch].split(batch)
            for ragged in (True,) if setting.toy else (False, True) if batch > 1 else (False,):
                systems = setting.systems(name, pixels, ragged=ragged)
                if setting.toy:  # all of them once, then as few as can be compared
                    first = (name, pixels, reverse) == ("vit_large", 1024, False)
                    systems = {n: r for n, r in systems.items() if first or n in ("none", "step")}
                if reverse:
                    systems = dict(reversed(systems.items()))
                common = {
                    "backbone": name, "px": pixels, "runtime": runtime, "batch": batch,
                    "counts": "ragged" if ragged else "uniform", "reverse": reverse,
                    "matmul_gmacs_per_s": place["matmul_gmacs_per_s"],
                    "attention": place["attention_backend"],
                }  # fmt: skip
                _measure(setting, rows, model, systems, batches, common)
        rows.add(backbone=name, px=pixels, runtime=runtime, seconds=time.perf_counter() - begin)


def _measure(
    setting: Setting,
    rows: Rows,
    model: StepSegmenter,
    systems: dict[str, Reduction],
    batches: Sequence[torch.Tensor],
    common: dict,
) -> None:
    rounds = Rounds(warmup=0 if setting.toy else 2, iterations=1 if setting.toy else 24)
    with _told() as told:
        figures = benchmark(model, systems, batches, rounds)
    for name, row in figures.items():
        used = row["gmacs"] * row["images_per_s"] / common["matmul_gmacs_per_s"]
        rows.add(system=name, **common, **row, mfu=used, warnings=told)
    single = len(batches[0]) == 1
    in_flight = (1, 2, 4) if single else (1, 2)
    if setting.toy:
        in_flight = (2,) if len(systems) > 2 else (1,)
    for number in in_flight:
        rounds_ = 1 if setting.toy else 5 if single else 2
        with _told() as told:
            rates = throughput(model, systems, batches, in_flight=number, rounds=rounds_)
        for name, rate in rates.items():
            rows.add(system=name, **common, in_flight=number, images_per_s=rate, warnings=told)


@contextmanager
def _told() -> Iterator[list[str]]:
    """What was given up meanwhile, so that something else was timed."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    messages = dict.fromkeys(str(warning.message)[:300] for warning in caught)
    told += [message for message in messages if " is not used for " in message]


def parts(setting: Setting, rows: Rows) -> None:
    """Where the time of one image goes, eagerly."""
    name, pixels = "vit_large", 1024
    model = setting.model(name, CLASSES[pixels]).prepare_for_inference().to(setting.dtype)
    systems = setting.systems(name, pixels)
    chosen = {system: systems[system] for system in ("none", "dcts", "step")}
    images = setting.images(1, pixels).to(setting.dtype)
    found = profile_parts(
        model, chosen, images, warmup=0 if setting.toy else 3, iterations=setting.rounds
    )
    for system, list_ in found.items():
        for part in list_:
            rows.add(backbone=name, px=pixels, system=system, **part)


def published_style(setting: Setting, rows: Rows) -> None:
    """The published control flow beside ours, on the same weights (`benchmarks/paper_style.py`)."""
    for name, pixels in (("vit_base", 512), ("vit_large", 1024)):
        model = setting.model(name, CLASSES[pixels]).prepare_for_inference().to(setting.dtype)
        options = argparse.Namespace(
            warmup=0 if setting.toy else 2, iterations=1 if setting.toy else 10
        )
        systems = setting.systems(name, pixels)
        names = {"dense": "none", "dtop": "dtop", "step": "step"}
        chosen = {theirs: systems[ours] for theirs, ours in names.items()}
        for batch in (1,) if setting.toy else (1, 8):
            images = setting.images(batch, pixels).to(setting.dtype)
            for row in paper_style.compare(model, chosen, images, options):
                rows.add(backbone=name, px=pixels, **row)
        if setting.toy:
            return


large_1024 = partial(table, "vit_large", (1024,))
large_512 = partial(table, "vit_large", (512,))
large_768 = partial(table, "vit_large", (768,))
base = partial(table, "vit_base", (1024, 512, 768))
dinov3 = partial(table, "vit_base_patch16_dinov3", (1024, 512, 768))
