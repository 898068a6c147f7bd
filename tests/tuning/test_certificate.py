"""Certificates on invented losses: what they promise holds, and they are not idle."""

import numpy as np
import pytest
from scipy.stats import binom

from stepseg.tuning.certificate import (
    Promise,
    betting,
    certify,
    control_mean,
    floor,
    hoeffding_bentkus,
)

ALPHA, DELTA = 0.02, 0.1
SPLITS = 400
MOST = int(binom.ppf(0.999, SPLITS, DELTA))
"""Violations that chance explains."""


def invented(rng, n, mean):
    """Losses of many images with few changes and some with many: Beta of this mean."""
    return rng.beta(0.5, 0.5 / mean - 0.5, n)


@pytest.mark.parametrize("bound", ["betting", "hb"])
def test_at_the_border_the_promise_is_broken_no_more_often_than_delta(bound):
    """A sequence whose second reduction is just too much: certifying it is the violation."""
    rng = np.random.default_rng(0)
    broken = fine = 0
    for _ in range(SPLITS):
        losses = np.stack([invented(rng, 400, m) for m in (0.005, 0.0201, 0.05)], 1)
        certificate = certify(losses, Promise(ALPHA, DELTA, bound))
        broken += certificate.certified >= 2
        fine += certificate.certified >= 1
    assert broken <= MOST
    assert fine > 0.9 * SPLITS


def test_the_mean_over_splits_is_kept():
    rng = np.random.default_rng(1)
    means = np.linspace(0.002, 0.06, 20)
    risks = []
    for _ in range(SPLITS):
        u = rng.random((200, 1))
        losses = (u < 0.2) * means * 5.0  # a fifth of the images changes, more and more
        certified = certify(losses, Promise(ALPHA, DELTA, "mean")).certified
        risks.append(means[certified - 1] if certified else 0.0)
    assert np.mean(risks) <= ALPHA
    assert np.mean(risks) > 0.5 * ALPHA


@pytest.mark.parametrize("bound", ["betting", "hb", "mean"])
def test_the_floor_is_what_unchanged_images_certify(bound):
    promise = Promise(0.01, 0.05, bound)
    n = promise.images_needed
    assert n == {"hb": 299, "betting": 302, "mean": 99}[bound]
    assert certify(np.zeros((n, 1)), promise).certified == 1
    assert certify(np.zeros((n - 9, 1)), promise).certified == 0
    assert floor(2000, 0.05, "hb") == pytest.approx(np.log(20) / 2000, rel=0.01)


def test_testing_stops_at_the_first_failure_and_bets_see_small_spread():
    small, large = np.full(500, 0.003), np.full(500, 0.03)
    losses = np.stack([small, large, small], 1)
    certificate = certify(losses, Promise(0.01, 0.05, "betting"))
    assert certificate.certified == 1
    assert certificate.as_dict()["means"] == pytest.approx([0.003, 0.03])
    assert betting(small, 0.01) < 0.05 < hoeffding_bentkus(small, 0.01)
    assert hoeffding_bentkus(large, 0.01) == betting(large, 0.01) == 1


def test_known_values():
    zeros = np.zeros(100)
    assert hoeffding_bentkus(zeros, 0.05) == pytest.approx(0.95**100)
    assert control_mean(np.array([[0.5, 0.2], [0.1, 0.3]])) == pytest.approx(1.8 / 3)
