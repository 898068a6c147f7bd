"""How much a reduction may change, with a guarantee: tests of a fixed sequence on a few images.

The loss of an image is the share of its pixels whose class is another than the dense run's: 0
without a reduction, never above 1, and no label is needed. Given the losses of n images under every
reduction of a sequence that was fixed before, "no reduction" outwards:

* `learn_then_test`: every reduction that is certified changes at most a share alpha of all pixels
  to come, in the mean, all of them together with probability 1 - delta over the draw of the images
  (Learn then Test, arXiv 2110.01052, with fixed-sequence testing: stop at the first that cannot be
  certified, so that no correction for many tests is due, and losses need not grow along the
  sequence). Its p-values are Hoeffding's and Bentkus's, or those of a bettor who wins where losses
  stay below alpha (arXiv 2010.09686), which are sharper where losses vary little.
* `control_mean`: the mean loss over draws of images and of the next image is at most alpha
  (conformal risk control, arXiv 2208.02814): cheaper, and it says nothing about the images at hand.

Both ask for images that are exchangeable with those to come.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil, exp, log
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

Losses = NDArray[np.float64]
BOUNDS = ("betting", "hb", "mean")
BOLD = 0.99
"""The greatest stake, as a share of one that a single image could ruin."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What is to be certified."""

    alpha: float
    """Share of changed pixels."""
    delta: float
    """Probability that the promise is wrong; not read by ``mean``."""
    bound: str
    """One of `BOUNDS`."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Read a command's keys.

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

    @property
    def images_needed(self) -> int:
        """The least n whose floor is alpha."""
        alpha, n = self.alpha, 1
        if self.bound != "mean":
            n = max(1, int(log(self.delta) / np.log1p(-alpha)))
        while floor(n, self.delta, self.bound) > alpha:
            n += 1
        return n

    def check(self, count: int) -> None:
        """Refuse what so few images can never certify."""
        least = floor(count, self.delta, self.bound)
        if least > self.alpha:
            raise ValueError(
                f"certify={self.alpha:g}: {count} images certify {least:.2g} at best, if no pixel "
                f"changes; give at least {self.images_needed} images, a larger share"
                + ("" if self.bound == "mean" else ", or bound=mean, a promise of means")
            )


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was certified, and by what."""

    n: int
    """Images."""
    alpha: float
    """Share of changed pixels."""
    delta: float | None
    """Probability that the promise is wrong; None: it is one of means."""
    bound: str
    floor: float
    """The least alpha that so many images could certify, if nothing changed in any."""
    means: tuple[float, ...]
    """Mean loss of every reduction that was tested, in order, the first that failed included."""
    values: tuple[float, ...]
    """Their p-values, to be at most delta; of ``mean`` bounds on the risk, to be at most alpha."""
    certified: int
    """How many of the sequence are certified: the first so many."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def certify(losses_NK: Losses, promise: Promise) -> Certificate:
    """Test a sequence.

    Args:
        losses_NK: in [0, 1], of N images in an order that has nothing to do with them, under K
            reductions in the order of the sequence.
        promise: what is to hold.

    """
    alpha, delta, bound = promise.alpha, promise.delta, promise.bound
    n, limit = len(losses_NK), alpha if bound == "mean" else delta
    values: list[float] = []
    for k in range(losses_NK.shape[1]):
        if bound == "mean":
            values.append(control_mean(losses_NK[:, : k + 1]))
        else:
            p_value = betting if bound == "betting" else hoeffding_bentkus
            values.append(p_value(losses_NK[:, k], alpha))
        if values[-1] > limit:
            break
    return Certificate(
        n=n,
        alpha=alpha,
        delta=None if bound == "mean" else delta,
        bound=bound,
        floor=floor(n, delta, bound),
        means=tuple(map(float, losses_NK.mean(0)[: len(values)])),
        values=tuple(values),
        certified=sum(value <= limit for value in values),
    )


def floor(n: int, delta: float, bound: str) -> float:
    """The least share that n images can certify, where no pixel of any has changed."""
    if bound == "mean":
        return 1 / (n + 1)
    least = -np.expm1(log(delta) / n)  # (1 - alpha)^n = delta, about ln(1 / delta) / n
    return float(least if bound == "hb" else least / (BOLD + least * (1 - BOLD)))


def hoeffding_bentkus(losses_N: Losses, alpha: float) -> float:
    """P-value of "the mean loss is above alpha", from the mean alone."""
    n, mean = len(losses_N), min(float(losses_N.mean()), alpha)
    first = mean * log(mean / alpha) if mean else 0.0
    distance = first + (1 - mean) * log((1 - mean) / (1 - alpha))
    bentkus = exp(1) * float(binom.cdf(ceil(n * float(losses_N.mean()) - 1e-9), n, alpha))
    return min(1.0, exp(-n * distance), bentkus)


def betting(losses_N: Losses, alpha: float) -> float:
    """P-value of the same: one over the most that a bettor against it ever had.

    Before each image the stake follows from those before it, by the mean and the spread that they
    had; a fair game lets the fortune grow t-fold with a probability of at most 1 / t.
    """
    fortune = most = 1.0
    total, squares = alpha / 2, alpha**2 / 2  # what is known before the first
    for count, loss in enumerate(map(float, losses_N), start=1):
        mean = total / count
        edge = alpha - mean
        spread = max(squares / count - mean**2, 0.0) + edge**2
        stake = min(max(edge, 0.0) / max(spread, 1e-12), BOLD / (1 - alpha))
        fortune *= 1 - stake * (loss - alpha)
        most = max(most, fortune)
        total, squares = total + loss, squares + loss**2
    return 1 / most


def control_mean(losses_NK: Losses) -> float:
    """Bound on the expected loss of the next image, under the last of a sequence of reductions.

    Losses are made to grow along the sequence: conformal risk control asks for that.
    """
    return float((losses_NK.max(1).sum() + 1) / (len(losses_NK) + 1))
