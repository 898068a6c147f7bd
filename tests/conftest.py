"""Shared by all tests: helper modules on the path, one thread, fixed random numbers."""

import sys
from pathlib import Path

import pytest
import torch

# `reference` and `toys` are imported by name. Appended, so that no folder here hides a module.
sys.path.append(str(Path(__file__).parent))

# Toy tensors gain nothing from threads and lose a lot where tests run side by side.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_random_numbers():
    torch.manual_seed(0)
