"""What an accelerated model is to keep or to cost, and the images on which that is found out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from stepseg.accelerate.judge import changes_in
from stepseg.accelerate.samples import Samples
from stepseg.model_config import ReductionConfig
from stepseg.plain_types import from_values
from stepseg.predict.inputs import File
from stepseg.predict.outputs import OutputFolder
from stepseg.predict.segmenter import Segmenter
from stepseg.tuning.certificate import Promise
from stepseg.tuning.changes import Changes
from stepseg.tuning.search import Search, Tried
from stepseg.tuning.sequence import Tested, certify_sequence, fixed_sequence
from stepseg.tuning.target import target_of

LEAST = 4
"""Images: of fewer none can be held out."""
TARGETS = ("lose", "gmacs", "certify")
DEALT = ("held_out", "choose_images", "compare_images", "seed")
LOSE = 1.0
"""Percent of the pixels, where no target is given."""
CHOOSE = 24
"""Images for a search."""
CERTIFY = 2
"""Times as many images as a certificate needs at least, where no pixel changes."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A target, and how images are dealt."""

    target: str
    number: float
    promise: Promise | None
    """Of the target ``certify``."""
    held_out: float
    choose_images: int | None
    compare_images: int | None
    """None: all that are held out."""
    seed: int

    def __post_init__(self) -> None:
        if self.target == "lose" and self.number >= 100:
            raise ValueError(f"lose={self.number:g}: percent of the pixels, below 100")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}: a share of the images between 0 and 1")
        for key in ("choose_images", "compare_images"):
            count = getattr(self, key)
            if count is not None and count < 1:
                raise ValueError(f"{key}={count}: at least 1 image")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Read the command's keys.

        Raises:
            ValueError: names the key.

        """
        if all(values[key] is None for key in TARGETS):
            values = {**values, "lose": LOSE}
        target, number = target_of(values, TARGETS)
        promise = Promise.from_values(values) if target == "certify" else None
        dealt = {key: values[key] for key in DEALT}
        return from_values(
            cls, {"target": target, "number": number, "promise": promise, **dealt}, ""
        )

    def counts(self, images: int) -> tuple[int, int]:
        """Of so many images those held out, and those on which a reduction is chosen."""
        apart = min(max(1, round(images * self.held_out)), images - 2)
        rest = images - apart
        if self.choose_images is not None:
            return apart, min(self.choose_images, rest - 1)
        wanted = CERTIFY * self.promise.images_needed if self.promise else CHOOSE
        return apart, max(1, min(wanted, rest // 2))

    def check(self, images: int) -> None:
        """Refuse a promise that no certificate of so many images can give.

        Raises:
            ValueError: says how many are needed.

        """
        _, choosing = self.counts(images)
        if self.promise is not None:
            try:
                self.promise.check(choosing)
            except ValueError as error:
                raise ValueError(
                    f"{error}; {choosing} are left of {images}, the others are learned from "
                    f"(choose_images=) or held out (held_out=)"
                ) from error

    def deal(self, files: Sequence[File], dense: OutputFolder) -> tuple[Samples, Samples, Samples]:
        """To learn from, to choose on, and to compare on: the last have no say before."""
        generator = torch.Generator().manual_seed(self.seed)
        order = [files[i] for i in torch.randperm(len(files), generator=generator).tolist()]
        apart, choosing = self.counts(len(files))
        held_out, rest = order[:apart], order[apart:]
        return (
            Samples(rest[choosing:], dense),
            Samples(rest[:choosing], dense),
            Samples(held_out[: self.compare_images], dense),
        )

    def met_by(self, search: Search) -> Tried:
        """What a scouted search finds.

        Raises:
            ValueError: nothing.

        """
        if self.target == "gmacs":
            found = search.meet(self.number, "GMACs")
        else:
            found = search.keep(self.number)
        if found is None:
            raise ValueError(
                f"no reduction that was tried keeps {self.target}={self.number:g}, and they cost "
                f"{search.possible()[0]:.4g} GMACs at least, policy included, the dense model "
                f"{search.cost(search.dense_scouted):.4g}: allow more, let the policy learn longer "
                f"(learn.steps), or take a smaller one (policy=lcnet_050)"
            )
        return found

    def certify(
        self, segmenter: Segmenter, base: ReductionConfig, samples: Samples, folder: Path
    ) -> Tested:
        """As much of the sequence around a reduction as these images allow."""
        assert self.promise is not None
        places = {file.path: index for index, file in enumerate(samples.files)}

        def look(file: Path, reductions: Sequence[ReductionConfig]) -> Changes:
            return changes_in(segmenter, reductions, samples, places[file])

        model = segmenter.model
        sequence = fixed_sequence(model, base, samples.cells(segmenter))
        weights = [float(p.double().sum()) for p in model.parameters()]
        identity = {"weights": weights, "protocol": segmenter.protocol.as_dict()}
        return certify_sequence(
            self.promise, sequence, list(places), look, folder, identity, self.seed
        )
