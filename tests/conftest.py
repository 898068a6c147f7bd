"""Shared by all tests: helper modules on the path, one thread, fixed random numbers.

Properties are tried on the same few examples every time, unless ``HYPOTHESIS_PROFILE=thorough``
asks for many new ones.
"""

import logging
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from stepseg import macs
from stepseg.profile import peak

# `reference` and `toys` are imported by name. Appended, so that no folder here hides a module.
sys.path.append(str(Path(__file__).parent))

# Toy tensors gain nothing from threads and lose a lot where tests run side by side.
torch.set_num_threads(1)

# Other processes may have the machine: no time is a failure.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", _PATIENT, max_examples=30, derandomize=True)
settings.register_profile("thorough", _PATIENT, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def _fixed_random_numbers():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_seconds_for_the_fastest_product(monkeypatch):
    """What a product reaches is of no interest to tests of other things."""
    monkeypatch.setattr(peak, "SIDE_ELSEWHERE", 64)
    monkeypatch.setattr(peak, "SECONDS", 1e-9)


@pytest.fixture(autouse=True, scope="session")
def _networks_alike_are_counted_once():
    """Counting a policy on tensors without data takes half a second, at every training anew."""
    with pytest.MonkeyPatch.context() as patch:
        counted, count = {}, macs.network_macs

        def once(network, input_shape):
            key = (repr(network), tuple(input_shape))
            if key not in counted:
                counted[key] = count(network, input_shape)
            return counted[key]

        patch.setattr(macs, "network_macs", once)
        yield


@pytest.fixture(autouse=True)
def _no_handler_outlives_its_test():
    """Hydra's configured handlers write to the stream of the test that configured them."""
    loggers = [logging.getLogger(), logging.getLogger("stepseg")]
    before = [(list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
