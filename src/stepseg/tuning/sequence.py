"""Reductions that were fixed before their images were seen, tested until one breaks the promise.

What is known of every image is kept on disk, for a run that goes on.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepseg.files.writing import write_json
from stepseg.grid.store import file_hash
from stepseg.model import StepSegmenter
from stepseg.model_config import ReductionConfig
from stepseg.telling import tell
from stepseg.tuning.certificate import Certificate, Promise, certify
from stepseg.tuning.changes import Changes
from stepseg.tuning.families import together

STEPS = 20
"""Reductions of the sequence."""
AT_ONCE = 5
"""Of which so many are evaluated before the next are looked at: most are never needed."""
EVERY = 10.0
"""Seconds between lines of progress, and between writings of what is known."""

Look = Callable[[Path, Sequence[ReductionConfig]], Changes]
"""What some reductions change in an image."""


@dataclass(frozen=True, slots=True)
class Tested:
    """A sequence, with what became of it."""

    certificate: Certificate
    sequence: list[ReductionConfig]
    gmacs: list[float]
    """Means over the images, of those that were evaluated."""
    images_sha256: str
    dense_gmacs: float | None = None
    """Mean without reduction; None: not measured."""

    @property
    def fastest(self) -> int | None:
        """The place of the best that is certified: all that are, are so together."""
        return min(range(self.certificate.certified), key=self.gmacs.__getitem__, default=None)

    @property
    def chosen(self) -> ReductionConfig:
        """The same, as a reduction.

        Raises:
            ValueError: none is certified, or none that saves anything.

        """
        if self.fastest is None:
            raise ValueError(
                f"not even the first reduction of the sequence is certified: it changes "
                f"{100 * self.certificate.means[0]:.2g} % of the pixels of these images in the "
                f"mean; certify more, or give more images"
            )
        if self.dense_gmacs is not None and self.gmacs[self.fastest] >= self.dense_gmacs:
            raise ValueError(
                f"all {self.certificate.certified} reductions that are certified cost more than "
                f"they save, at least {self.gmacs[self.fastest]:.4g} GMACs where no reduction "
                f"takes {self.dense_gmacs:.4g}; certify more, or give more images"
            )
        return self.sequence[self.fastest]

    def as_dict(self) -> dict[str, Any]:
        """The certificate, as plain values."""
        return {
            **self.certificate.as_dict(),
            "chosen": self.fastest,
            "sequence": f"{STEPS} reductions from none outwards",
            "images_sha256": self.images_sha256,
        }


def fixed_sequence(
    model: StepSegmenter, base: ReductionConfig, cells: int
) -> list[ReductionConfig]:
    """From almost no reduction outwards; everything that the base reduces moves together.

    Args:
        model: which has to be able to carry them out.
        base: in the middle.
        cells: of the patch grid of an image.

    """
    path = together(base, model.patch_size, cells)
    sequence = [path.at((k + 1) / STEPS) for k in range(STEPS)]
    for reduction in sequence:
        model.check(reduction.build())
    return sequence


def certify_sequence(
    promise: Promise,
    sequence: Sequence[ReductionConfig],
    files: Sequence[Path],
    look: Look,
    folder: Path,
    identity: Mapping[str, Any],
    seed: int,
) -> Tested:
    """Certify as much of a sequence as these images allow.

    Args:
        promise: that it is to keep.
        sequence: of `fixed_sequence`.
        files: images.
        look: at one of them.
        folder: where what is known is kept.
        identity: all else that changes depend on, plain values.
        seed: of the order of the images, which has nothing to do with them.

    """
    files = sorted(files, key=lambda file: (_hash(f"{seed} {file.name}"), file))
    images = _hash("".join(sorted(map(file_hash, files))))
    steps = [asdict(reduction) for reduction in sequence]
    kept = Kept(folder, {**identity, "images": images, "sequence": steps})
    for start in range(0, STEPS, AT_ONCE):
        part = sequence[start : start + AT_ONCE]
        _evaluate(kept, files, lambda file, part=part: look(file, part), start + AT_ONCE)  # type: ignore[misc]
        end = start + AT_ONCE  # an earlier start may have got further with some images
        losses = np.array([kept.shares[file.as_posix()][:end] for file in files])
        certificate = certify(losses, promise)
        if certificate.certified < losses.shape[1]:
            break
    gmacs = np.array([kept.gmacs[file.as_posix()][:end] for file in files])
    dense = [kept.dense.get(file.as_posix()) for file in files]
    known = [cost for cost in dense if cost is not None]
    unreduced = sum(known) / len(known) if len(known) == len(files) else None
    return Tested(certificate, list(sequence), gmacs.mean(0).tolist(), images, unreduced)


class Kept:
    """What is known of every image, in a file of one request."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        request = _hash(json.dumps(identity, sort_keys=True))
        self.path = folder / f"changes-{request[:12]}.json"
        self.shares: dict[str, list[float]] = {}
        self.gmacs: dict[str, list[float]] = {}
        self.dense: dict[str, float] = {}
        if self.path.is_file():
            content = json.loads(self.path.read_text())
            self.shares, self.gmacs = content["shares"], content["gmacs"]
            self.dense = content.get("dense", {})

    def add(self, name: str, changes: Changes) -> None:
        """Keep more of an image's reductions."""
        self.shares.setdefault(name, []).extend(changes.shares)
        self.gmacs.setdefault(name, []).extend(changes.gmacs)
        if changes.dense_gmacs is not None:
            self.dense[name] = changes.dense_gmacs

    def write(self) -> None:
        """All of it."""
        write_json(self.path, {"shares": self.shares, "gmacs": self.gmacs, "dense": self.dense})


def _evaluate(
    kept: Kept, files: Sequence[Path], look: Callable[[Path], Changes], upto: int
) -> None:
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


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
