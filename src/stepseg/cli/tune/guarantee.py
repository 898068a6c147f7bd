"""A certificate: the fastest reduction that keeps a promise, by images without labels."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from stepseg.cli.config import checkpoint_reduction, given_checkpoint, output_dir
from stepseg.cli.protocol import choose_protocol
from stepseg.cli.result import Result
from stepseg.cli.trainer import make_datamodule
from stepseg.cli.tune.choice import FILE, write_choice
from stepseg.data.files import read_image
from stepseg.files.writing import write_json
from stepseg.grid.store import file_hash
from stepseg.model_config import ReductionConfig
from stepseg.profile.images import image_files
from stepseg.runtime.apply import apply_runtime
from stepseg.runtime.choice import choose_device, choose_runtime
from stepseg.telling import show_table, tell
from stepseg.tuning.certificate import BOUNDS, Certificate, certify, floor, images_needed
from stepseg.tuning.changes import Changes, changes_of
from stepseg.tuning.families import together

STEPS = 20
"""Reductions of the sequence."""
AT_ONCE = 5
"""Of which so many are evaluated before the next are looked at: most are never needed."""
EVERY = 10.0
"""Seconds between lines of progress, and between writings of what is known."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What is to be certified."""

    alpha: float
    delta: float
    bound: str

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Promise":
        """Read the command's keys.

        Raises:
            ValueError: names the key.

        """
        for key in ("certify", "delta"):
            value = values[key]
            if isinstance(value, bool) or not isinstance(value, float | int) or not 0 < value < 1:
                raise ValueError(f"{key}={value!r}: a share between 0 and 1")
        if values["bound"] not in BOUNDS:
            raise ValueError(f"bound={values['bound']!r}: choose one of {', '.join(BOUNDS)}")
        return cls(float(values["certify"]), float(values["delta"]), values["bound"])

    def check(self, count: int) -> None:
        """Refuse what so few images can never certify."""
        least = floor(count, self.delta, self.bound)
        if least > self.alpha:
            needed = images_needed(self.alpha, self.delta, self.bound)
            raise ValueError(
                f"certify={self.alpha:g}: {count} images certify {least:.2g} at best, if no pixel "
                f"changes; give at least {needed} images, a larger share"
                + ("" if self.bound == "mean" else ", or bound=mean, a promise of means")
            )


def guarantee(values: Mapping[str, Any], result: Result) -> ReductionConfig:
    """Certify, write `reduction.yaml`; figures go to the result. Returns the reduction."""
    promise = Promise.from_values(values)
    if values["policy"]["name"] != "checkpoint":
        raise ValueError("certify= needs no labels, and policy=oracle merges by them: drop it")
    checkpoint = given_checkpoint(values)
    config = checkpoint.config
    base = ReductionConfig.from_dict(checkpoint_reduction(values["reduction"], config))
    files = _files(values)
    promise.check(len(files))
    given = values["data"]["evaluation"] or {}
    protocol = choose_protocol("stepseg-tune", checkpoint, given, "data.evaluation")
    device = choose_device("cpu" if values["trainer"]["accelerator"] == "cpu" else "auto")
    runtime = choose_runtime(values["runtime"], device)
    model = apply_runtime(checkpoint.build().prepare_for_inference().to(device), runtime)
    cells = read_image(files[0])[0].numel() // model.patch_size**2
    path = together(base, model.patch_size, cells)
    sequence = [path.at((k + 1) / STEPS) for k in range(STEPS)]
    for reduction in sequence:
        model.check(reduction.build())
    result.update({"model": config.to_dict(), "device": str(device), "runtime": runtime})
    identity = {
        "checkpoint": file_hash(checkpoint.path),
        "images": _hash(files),
        "sequence": [asdict(reduction) for reduction in sequence],
        "protocol": protocol.as_dict(),
        "runtime": runtime,
    }
    kept = Kept(output_dir() / "search" / "changes.json", identity)

    @torch.no_grad()
    def look(file: Path, chosen: Sequence[ReductionConfig]) -> Changes:
        image_3HW = read_image(file).to(device)
        return changes_of(model, [r.build() for r in chosen], image_3HW, protocol)

    tell(f"stepseg-tune: {len(files)} images, up to {STEPS} reductions from none outwards")
    for start in range(0, STEPS, AT_ONCE):
        part = sequence[start : start + AT_ONCE]
        _evaluate(kept, files, lambda file, part=part: look(file, part), start + AT_ONCE)
        losses = np.array([kept.shares[file.as_posix()] for file in files])
        certificate = certify(losses, promise.alpha, promise.delta, promise.bound)
        if certificate.certified < losses.shape[1]:
            break
    chosen, said = _publish(certificate, kept, sequence, str(identity["images"]), result)
    write_choice(checkpoint, chosen, "certified", {"certificate": said})
    tell(f"file    reduction={output_dir() / FILE}")
    return chosen


class Kept:
    """What is known of every image, on disk, for a run that goes on.

    Raises:
        ValueError: the folder holds that of another request.

    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, json.loads(json.dumps(identity))
        self.shares: dict[str, list[float]] = {}
        self.gmacs: dict[str, list[float]] = {}
        if path.is_file():
            content = json.loads(path.read_text())
            if content["identity"] != self.identity:
                raise ValueError(f"{path} is of another request; choose another hydra.run.dir")
            self.shares, self.gmacs = content["shares"], content["gmacs"]

    def add(self, name: str, changes: Changes) -> None:
        """Keep more of an image's reductions."""
        self.shares.setdefault(name, []).extend(changes.shares)
        self.gmacs.setdefault(name, []).extend(changes.gmacs)

    def write(self) -> None:
        """All of it."""
        known = {"identity": self.identity, "shares": self.shares, "gmacs": self.gmacs}
        write_json(self.path, known)


def _evaluate(kept: Kept, files: Sequence[Path], look: Any, upto: int) -> None:
    """All images that have not got so far."""
    told = time.monotonic()
    for done, file in enumerate(files):
        if len(kept.shares.get(file.as_posix(), ())) < upto:
            kept.add(file.as_posix(), look(file))
        if time.monotonic() - told > EVERY:
            told = time.monotonic()
            kept.write()
            tell(f"image {done + 1}/{len(files)}, reductions up to {upto}")
    kept.write()


def _files(values: Mapping[str, Any]) -> list[Path]:
    """Images of a folder, or of the data's test split, in an order of no meaning."""
    if values["images"]:
        files = image_files(values["images"])
    else:
        datamodule = make_datamodule(values, evaluation=None)
        datamodule.prepare_data()
        files = [pair.image for pair in datamodule.dataset("test").pairs]
    drawn = {f: hashlib.sha256(f"{values['seed']} {f.name}".encode()).hexdigest() for f in files}
    return sorted(files, key=lambda file: (drawn[file], file))


def _hash(files: Sequence[Path]) -> str:
    """Of all images, by what is in them."""
    return hashlib.sha256("".join(sorted(map(file_hash, files))).encode()).hexdigest()


def _publish(
    certificate: Certificate,
    kept: Kept,
    sequence: Sequence[ReductionConfig],
    data_hash: str,
    result: Result,
) -> tuple[ReductionConfig, dict[str, Any]]:
    """The fastest that is certified, with its certificate; all that was tested as rows."""
    gmacs = np.array(list(kept.gmacs.values())).mean(0)
    rows = [
        {
            "strength": (k + 1) / STEPS,
            "gmacs_mean": float(gmacs[k]),
            "changed_mean": certificate.means[k],
            "value": certificate.values[k],
            "certified": k < certificate.certified,
        }
        for k in range(len(certificate.values))
    ]
    # all that are certified are so together: the fastest of them may be taken
    fastest = min(range(certificate.certified), key=lambda k: gmacs[k], default=None)
    chosen = ReductionConfig() if fastest is None else sequence[fastest]
    said = {
        **certificate.as_dict(),
        "chosen": fastest,
        "sequence": f"{STEPS} reductions from none outwards",
        "images_sha256": data_hash,
    }
    result.update({"certificate": said, "sequence": rows, "reduction_file": FILE})
    table = Table(title=_sentence(certificate))
    for column in ("strength", "GMACs", "changed, %", "value", ""):
        table.add_column(column, justify="right")
    for k, row in enumerate(rows):
        mark = "chosen" if k == fastest else "certified" if row["certified"] else ""
        shown = f"{row['strength']:.2f}", f"{row['gmacs_mean']:.3f}"
        percent = f"{100 * row['changed_mean']:.3f}"
        table.add_row(*shown, percent, f"{row['value']:.2g}", mark)
    show_table(table)
    if fastest is None:
        raise ValueError(
            f"not even the first reduction of the sequence is certified: it changes "
            f"{100 * certificate.means[0]:.2g} % of the pixels of these images in the mean; "
            f"certify more, or give more images"
        )
    return chosen, said


def _sentence(certificate: Certificate) -> str:
    """The promise in words."""
    share = f"at most {100 * certificate.alpha:g} % of all pixels change"
    if certificate.delta is None:
        return f"In the mean {share} ({certificate.n} images, conformal risk control)"
    return (
        f"With {100 * (1 - certificate.delta):g} % confidence {share} "
        f"({certificate.n} images, {certificate.bound})"
    )
